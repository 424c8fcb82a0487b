"""Selective prediction: scores of an answer, calibrated confidence, and abstention."""
