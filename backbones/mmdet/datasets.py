"""MMDetection's own data set classes, without the lines that importing them prints about those it leaves out."""

import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()):
    from mmdet.datasets import CocoDataset, VOCDataset

__all__ = ["CocoDataset", "VOCDataset"]
