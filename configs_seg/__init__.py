"""Segmentation configs in each framework's own format, one folder per framework."""
