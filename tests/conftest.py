"""Nothing is shared by default: each test makes what it needs."""
