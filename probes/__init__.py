"""Formulas and formats shared by serving and training; independent of vLLM."""
