"""The instrument box: every formula that serving and training share, in torch, without vLLM."""
