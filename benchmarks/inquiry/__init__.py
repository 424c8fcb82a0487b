"""What inquiry is worth and what a turn costs."""
