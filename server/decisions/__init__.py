"""Answers typed questions about an input with probabilities."""
