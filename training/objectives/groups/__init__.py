"""Objectives that act on rewards and advantages of whole groups."""
