"""Feedback on answers: which were right, and what that says about coverage and the flag."""
