"""Features of many networks at once: the prefix tree and batch-norm statistics per network."""
