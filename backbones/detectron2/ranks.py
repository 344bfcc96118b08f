"""Fine-tuning on the processes of a ``torchrun``, on GPUs or on the CPU."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import defaults
from detectron2.utils import comm

from data_plugin.utils.errors import UserError
from data_plugin.utils.ranks import join_until_exit

SYNCED = ("SyncBN", "nnSyncBN")
"""detectron2's names of PyTorch's synchronised batch norm, which runs on GPUs only."""

SYNCED_ANYWHERE = "naiveSyncBN_N"
"""detectron2's own synchronised batch norm, every process weighing as much as it has images or regions."""


def join_ranks(cfg: CfgNode) -> None:
    """Join the processes of a ``torchrun``, as detectron2's own ``launch`` does for those that it starts.

    On the CPU they talk over gloo, and a norm that needs GPUs gives way to another with the same statistics; a warning
    says so. Without ``torchrun`` there is nothing to join.

    Args:
        cfg: the config, whose device is there; changed.

    Raises:
        UserError: if the images of a step cannot be shared out evenly.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if "LOCAL_RANK" not in os.environ or world_size == 1:
        return
    if cfg.SOLVER.IMS_PER_BATCH % world_size:
        raise UserError(
            f"the config's SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}, but {world_size} processes share it; "
            f"give a multiple of {world_size}"
        )
    on_gpus = cfg.MODEL.DEVICE.startswith("cuda")
    if on_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    elif _replace_synced_norms(cfg):
        warnings.warn(f"{SYNCED[0]} needs GPUs: detectron2's {SYNCED_ANYWHERE} takes its place", stacklevel=2)
    if not dist.is_initialized():
        join_until_exit("nccl" if on_gpus else "gloo")
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))


@contextmanager
def wrapping_for(device: str) -> Iterator[None]:
    """For the time of a ``with``, let detectron2's trainer wrap a model that is on ``device``.

    It hands ``DistributedDataParallel`` the GPU of its process, which a model on the CPU does not have.
    """
    own = defaults.create_ddp_model
    if device == "cpu":
        defaults.create_ddp_model = partial(own, device_ids=None)
    try:
        yield
    finally:
        defaults.create_ddp_model = own


def _replace_synced_norms(node: CfgNode) -> bool:
    """Replace norms that need GPUs everywhere below ``node``; whether there were any."""
    found = [_replace_synced_norms(child) for child in node.values() if isinstance(child, CfgNode)]
    if node.get("NORM") in SYNCED:
        node.NORM = SYNCED_ANYWHERE
        return True
    return any(found)
