"""Job: policy training (GRPO with entropy objectives)."""
