"""MMDetection's own data sets and evaluators, without what importing them says about optional parts that are absent."""

import contextlib
import io
import warnings

with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
    from mmdet.datasets import CocoDataset, VOCDataset
    from mmdet.datasets.api_wrappers import COCO
    from mmdet.evaluation import CocoMetric

__all__ = ["COCO", "CocoDataset", "CocoMetric", "VOCDataset"]
