"""Job: entropy statistics for the `hapo` law."""
