"""Pages of keys and values: who holds them, what prefix they hold, and the memory itself."""
