"""What is asked of a detection or segmentation framework, and how one is chosen."""
