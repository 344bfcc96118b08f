"""Self-supervised pre-training of a supernet (DATA, Algorithm 1); ``training.pretrain`` is the way in."""
