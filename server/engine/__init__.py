"""What runs inside vLLM's worker processes; nothing else touches vLLM's worker internals."""
