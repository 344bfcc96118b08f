"""What people are shown of a search."""
