"""Training: makes the artifacts that the server acts with."""
