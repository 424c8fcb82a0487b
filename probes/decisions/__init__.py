"""Decisions: typed questions about an input, their scores, and their calibration."""
