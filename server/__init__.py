"""An OpenAI-compatible vLLM server that measures and controls entropy while decoding."""
