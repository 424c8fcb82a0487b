"""Messages between the API server and the vLLM worker."""
