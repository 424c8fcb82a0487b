"""The serving side: an OpenAI-compatible vLLM server that controls entropy at decode time."""
