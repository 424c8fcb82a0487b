"""Conformal information pursuit: tasks, predictors, questions, prediction sets."""
