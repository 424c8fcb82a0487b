"""Job: steering vectors (EAST)."""
