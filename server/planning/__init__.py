"""From a request to a plan. Pure: no I/O and no vLLM."""
