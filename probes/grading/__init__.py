"""Parsers for graders: final answer, words, numbers, choices and mathematics of a text."""
