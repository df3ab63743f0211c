"""The engine process and its client: the loop, the transport, the supervisor, LLM."""
