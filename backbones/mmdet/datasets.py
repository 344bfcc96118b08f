"""MMDetection's own data set classes, without what importing them says about optional parts that are absent."""

import contextlib
import io
import warnings

with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
    import mmdet.evaluation  # noqa: F401
    from mmdet.datasets import CocoDataset, VOCDataset

__all__ = ["CocoDataset", "VOCDataset"]
