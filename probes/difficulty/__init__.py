"""Difficulty probes and the strategies of each class."""
