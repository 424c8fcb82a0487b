"""vLLM's model runners V1 and V2 on a CPU, for tests: how to start each, and random traffic."""
