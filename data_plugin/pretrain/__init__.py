"""Self-supervised pre-training of a supernet (DATA, Algorithm 1)."""
