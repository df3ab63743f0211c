"""What a model writes besides its answer, read out of its text: reasoning, and calls of tools."""
