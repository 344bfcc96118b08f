"""Lightning's trainer for a pre-training: devices, precision, checkpoints and logs."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins import DoublePrecision, MixedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from data_plugin.pretrain.callbacks import Bar, LossScale, WholeFiles
from data_plugin.pretrain.output_folder import CHECKPOINT, LOGS
from data_plugin.pretrain.step import SupernetTraining
from data_plugin.utils.errors import UserError
from data_plugin.utils.ranks import launched_ranks

LOG_EVERY = 10
"""Steps between two entries in the logs."""

PRECISIONS: dict[str, Callable[[str], Precision]] = {
    "fp32": lambda device: Precision(),
    "bf16": partial(MixedPrecision, "bf16-mixed"),
    "fp16": partial(MixedPrecision, "16-mixed"),
    "fp64": lambda device: DoublePrecision(),
}
"""How Lightning computes in each precision on a kind of device; fp16 with a loss scale."""


def accelerator_of(device: str) -> str:
    """What Lightning calls a device: "gpu" or "cpu".

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: if it is ``cuda`` and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no CUDA device that torch can use; expected one for device 'cuda', or use 'cpu'")
    return "gpu" if device != "cpu" and torch.cuda.is_available() else "cpu"


def trainer_for(
    out: Path,
    start: int,
    *,
    steps: int,
    precision: str,
    accumulate: int,
    accelerator: str,
    checkpoint_every: int,
    callbacks: Sequence[Callback],
) -> Trainer:
    """Lightning's trainer, for the processes that torchrun or SLURM started.

    Args:
        out: the output folder.
        start: the step that it begins or goes on at, which names its logs.
        steps: the step that it ends at.
        precision: a name of :data:`PRECISIONS`.
        accumulate: parts that a batch is computed in.
        accelerator: what :func:`accelerator_of` gave.
        checkpoint_every: steps between two checkpoints.
        callbacks: called beside those that every training has.
    """
    devices, nodes = launched_ranks()
    return Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=_strategy(devices * nodes, accelerator),
        plugins=[WholeFiles(), PRECISIONS[precision]("cuda" if accelerator == "gpu" else "cpu")],
        accumulate_grad_batches=accumulate,
        max_steps=steps,
        max_epochs=1,
        default_root_dir=out,
        logger=_loggers(out, start),
        log_every_n_steps=min(LOG_EVERY, steps),
        callbacks=[Bar(), LossScale(), *callbacks, _checkpoints(out, checkpoint_every)],
        use_distributed_sampler=False,
        enable_model_summary=False,
    )


def fit(trainer: Trainer, training: SupernetTraining, loader: DataLoader[Any], checkpoint: Path | None) -> None:
    """Train.

    Args:
        trainer: what trains.
        training: what is trained.
        loader: the views, from the step on that the trainer starts at.
        checkpoint: the file to go on from; None begins.
    """
    with warnings.catch_warnings():
        # Lightning looks for a data loader with a state; the position of EpochStream is the step.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch")
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        warnings.filterwarnings("ignore", message="`isinstance.treespec, LeafSpec", category=FutureWarning)
        # In fp16 the first steps may be those that overflow.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step..` before `optimizer.step..`")
        # Lightning reads a checkpoint before it does so: what was in double precision would be rounded.
        trainer.precision_plugin.convert_module(training)
        trainer.fit(training, loader, ckpt_path=checkpoint, weights_only=True)


def _strategy(processes: int, accelerator: str) -> str | DDPStrategy:
    if processes == 1:
        return "auto"
    # Queues are the same everywhere already, and so are statistics, but for those of processes of their own, of which
    # training uses none and the supernet's file has the first process's.
    return DDPStrategy(process_group_backend="nccl" if accelerator == "gpu" else "gloo", broadcast_buffers=False)


def _loggers(out: Path, start: int) -> list[Logger]:
    # A folder per start, for both loggers begin their files anew.
    folder = f"from_step_{start}"
    loggers: list[Logger] = [CSVLogger(out, LOGS, folder, flush_logs_every_n_steps=LOG_EVERY)]
    if importlib.util.find_spec("tensorboard"):
        loggers.append(TensorBoardLogger(out, LOGS, folder))
    return loggers


def _checkpoints(out: Path, every: int) -> Callback:
    path = out / CHECKPOINT
    return ModelCheckpoint(path.parent, path.stem, every_n_train_steps=every, enable_version_counter=False)
