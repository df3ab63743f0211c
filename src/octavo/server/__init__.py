"""The HTTP front: OpenAI endpoints, status, metrics. Holds no weights."""
