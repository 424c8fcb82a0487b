"""Shipped configs of `train-policy` and of `accelerate`."""
