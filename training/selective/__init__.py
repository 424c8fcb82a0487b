"""`train-probe confidence` and `train-probe abstain`."""
