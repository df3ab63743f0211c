"""A model as a flat list of operations, and the executors that run it."""
