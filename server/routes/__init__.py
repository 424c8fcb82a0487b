"""HTTP routes that replace or join vLLM's own."""
