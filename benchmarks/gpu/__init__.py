"""Whether controls are right and cheap on a GPU, and the same functions on a CPU."""
