"""Configs of `train-policy` that come with the package, and those of `accelerate`."""
