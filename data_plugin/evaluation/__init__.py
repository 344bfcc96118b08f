"""How good a supernet's features are, measured with labels that pre-training never sees."""
