"""Decisions: their speed, and what asking back is worth."""
