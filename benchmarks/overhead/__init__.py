"""Cost of the controls beside stock vLLM."""
