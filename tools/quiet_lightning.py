"""What Lightning says of itself at every training, left out of a tool's output."""

from __future__ import annotations

import logging


def quiet_lightning() -> None:
    """From now on, let Lightning log warnings alone."""
    for name in ("lightning.pytorch", "pytorch_lightning"):  # lightly imports the second, which takes over the first
        logging.getLogger(name).setLevel(logging.WARNING)
