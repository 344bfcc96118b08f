"""Training on several processes without a GPU, which MMEngine's launcher does not provide for."""

from __future__ import annotations

import warnings
from typing import Any

import torch.distributed
from mmengine.config import Config

from data_plugin.utils.ranks import join_until_exit

SYNCED = ("SyncBN", "MMSyncBN")


def join_cpu_ranks(config: Config) -> None:
    """Join the processes of a ``torchrun`` over gloo, and fit a config to them.

    MMEngine would pick a CUDA device for each process and hand it to the model's wrapper. Synchronised batch norm runs
    on GPUs only, so each process normalises with its own images here; a warning says so.

    Args:
        config: the config; changed in place.
    """
    if not torch.distributed.is_initialized():
        join_until_exit("gloo")
    config.model_wrapper_cfg = {
        "type": "MMDistributedDataParallel",
        "device_ids": None,
        "broadcast_buffers": False,
        "find_unused_parameters": config.get("find_unused_parameters", False),
    }
    if _unsync(config.model):
        warnings.warn("SyncBN needs GPUs: each process normalises with the statistics of its own images", stacklevel=2)


def _unsync(node: Any) -> bool:
    """Replace synchronised batch norm by plain one everywhere below ``node``; whether there was any."""
    children = list(node.values()) if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else []
    found = [_unsync(child) for child in children]
    if isinstance(node, dict) and node.get("type") in SYNCED:
        node["type"] = "BN"
        return True
    return any(found)
