"""`python -m training` is `train-policy`, for `accelerate launch -m training CONFIG`."""

from training.policy_cli import train_policy

if __name__ == "__main__":
    train_policy()
