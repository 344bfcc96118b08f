"""What every room uses: errors, whole-file writes, ranks, progress, optional dependencies, provenance."""
