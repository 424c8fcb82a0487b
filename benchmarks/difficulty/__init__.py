"""What a difficulty probe is worth and what it costs."""
