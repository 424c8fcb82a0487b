"""Prometheus metrics of the API server, served by vLLM's `/metrics`."""
