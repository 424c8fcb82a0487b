"""What every training job shares: servers, rollouts on disk, prompts, errors."""
