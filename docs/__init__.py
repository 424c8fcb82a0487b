"""The documentation, and the script that keeps its reference pages equal to the code."""
