"""The drawn data sets that a search can be tried on."""

from __future__ import annotations

import tempfile
from pathlib import Path

from data_plugin.frameworks.framework import Task
from data_plugin.utils.errors import UserError

DEMO_DATA = Path("runs/demo-data")
"""Where they are drawn."""


def demo_data(task: Task) -> Path:
    """A data root with drawn images, in VOC's layout for detection and in Cityscapes' for segmentation.

    It is drawn the first time and found there later.

    Args:
        task: what the config's model is for.

    Raises:
        UserError: if several processes would draw it at once.
    """
    from data_plugin.images.drawn_cityscapes import draw_cityscapes
    from data_plugin.images.drawn_voc import draw_voc
    from data_plugin.utils.ranks import launched_ranks

    root = DEMO_DATA / task
    if root.is_dir():
        return root
    if launched_ranks() != (1, 1):
        raise UserError(f"{root} is not drawn yet; run the command once in a single process, with --dry-run")
    print(f"drawing images in {root} ...", flush=True)
    DEMO_DATA.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=DEMO_DATA) as scratch:  # whole or not at all
        drawn = Path(scratch, task)
        if task == "detection":
            draw_voc(drawn, train=160, test=40)
        else:
            draw_cityscapes(drawn, {"train": 64, "val": 16}, size=(256, 128))
        drawn.rename(root)
    return root
