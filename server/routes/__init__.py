"""HTTP routes that replace or extend those of vLLM."""
