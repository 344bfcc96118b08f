"""Self-supervised methods, a file each."""
