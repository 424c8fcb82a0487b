"""`python -m training` is `train-policy`, for `accelerate launch -m training CONFIG`."""

from training.cli.policy import train_policy

if __name__ == "__main__":
    train_policy()
