"""Rollouts of policy training."""
