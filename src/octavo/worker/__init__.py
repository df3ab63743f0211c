"""One step, from plan to result: slots, gathered batches, the executor."""
