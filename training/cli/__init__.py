"""Command-line entry points; `--help` imports no torch."""
