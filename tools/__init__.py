"""Command-line tools, each a thin script over ``data_plugin``."""
