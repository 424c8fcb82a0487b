"""Resolves a request into a plan. Pure: no I/O and no vLLM."""
