"""A whole pre-training: from a folder of images to the file of a supernet."""

from __future__ import annotations

import importlib.util
import shutil
import time
import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch.utils.data import DataLoader

import data_plugin
from data_plugin.checkpoint import Supernet, SupernetInfo, save_supernet
from data_plugin.errors import UserError
from data_plugin.files import read_tensors, write_whole
from data_plugin.input_format import InputFormat
from data_plugin.pretrain.image_folder import ImageFolder
from data_plugin.pretrain.moco import MoCoV2
from data_plugin.pretrain.recipe import Recipe
from data_plugin.pretrain.training import SupernetTraining
from data_plugin.pretrain.views import Batch, EpochStream, Views, collate
from data_plugin.space import SearchSpace

SUPERNET = "supernet.safetensors"
"""The file in the output folder that holds the trained supernet."""

CHECKPOINT = Path("checkpoints", "last.ckpt")
"""The file in the output folder that a stopped training goes on from."""

LOGS = "logs"
"""The folder in the output folder for CSV and TensorBoard logs."""

LOG_EVERY = 10
"""Steps between two entries in the logs."""

_RUN = "pretraining"


@dataclass(frozen=True)
class Pretrained:
    """What a pre-training came to.

    Args:
        path: the supernet's file.
        steps: number of steps, those before a resume included.
        images: number of image files.
        unreadable: names of images that could not be read, in whose place others stood.
    """

    path: Path
    steps: int
    images: int
    unreadable: list[str]


def pretrain(
    data: Path,
    space: SearchSpace,
    recipe: Recipe,
    out: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    workers: int = 0,
    device: str = "auto",
    precision: Any = "32-true",
    checkpoint_every: int = 500,
    resume: bool = False,
    overwrite: bool = False,
    skip_unreadable: bool = False,
) -> Pretrained:
    """Pre-train a supernet (DATA, Algorithm 1) on unlabelled images.

    On a CPU the result depends on the arguments up to ``seed`` and the number of torch's threads alone: a training
    that was stopped and resumed ends with the same bits.

    Args:
        data: folder of images, at any depth.
        space: the search space.
        recipe: method and hyper-parameters.
        out: output folder: ``supernet.safetensors``, and meanwhile ``checkpoints/`` and ``logs/``.
        steps: number of steps instead of the recipe's epochs.
        seed: seed of weights, order, views and random networks.
        workers: processes that read images; 0 reads them in this one.
        device: "cpu", "cuda", or "auto" for CUDA where there is one.
        precision: Lightning's ``Trainer(precision=...)``.
        checkpoint_every: steps between two checkpoints.
        resume: go on from the checkpoint in ``out``.
        overwrite: replace what an earlier training left in ``out``.
        skip_unreadable: take the next readable image in the place of one that cannot be read.

    Raises:
        UserError: if there are no images or fewer than a batch, one cannot be read and ``skip_unreadable`` is off,
            ``out`` holds another training, there is nothing to resume or it has other settings, there is no CUDA
            device, or the loss is not finite.
    """
    accelerator = _accelerator(device)
    images = ImageFolder(data)
    if len(images) < recipe.batch_size:
        raise UserError(
            f"{data} holds {len(images)} images, fewer than a batch of {recipe.batch_size}; lower the batch size"
        )
    input_format = InputFormat.imagenet()
    if steps is None:
        steps = max(1, recipe.epochs * len(images) // recipe.batch_size)
    run = {
        "space": space.to_json(),
        "recipe": recipe.to_json(),
        "steps": steps,
        "seed": seed,
        "images": len(images),
        "data": images.fingerprint(),
    }
    checkpoint = out / CHECKPOINT
    start = _resumed_step(checkpoint, run) if resume else 0
    if not resume:
        _make_room(out, overwrite)

    torch.manual_seed(seed)
    method = MoCoV2(space.largest.out_channels[-1], recipe.method)
    training = SupernetTraining(space, method, recipe, steps, seed, skip_unreadable)
    batch = recipe.batch_size
    loader = DataLoader(
        Views(images, method.transform(recipe.image_size, input_format), seed),
        batch_size=batch,
        sampler=EpochStream(len(images), steps * batch, start * batch, seed),
        num_workers=workers,
        collate_fn=collate,
        pin_memory=accelerator == "gpu",
    )
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision,
        max_steps=steps,
        max_epochs=1,
        default_root_dir=out,
        logger=_loggers(out, start),
        log_every_n_steps=min(LOG_EVERY, steps),
        callbacks=[
            ModelCheckpoint(
                checkpoint.parent, checkpoint.stem, every_n_train_steps=checkpoint_every, enable_version_counter=False
            ),
            _Bar(),
            _Progress(len(images), batch),
            _RunSettings(run),
        ],
        plugins=[_WholeFiles()],
        use_distributed_sampler=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        # Lightning looks for a data loader with a state; the position of EpochStream is the step.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch")
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        warnings.filterwarnings("ignore", message="`isinstance.treespec, LeafSpec", category=FutureWarning)
        trainer.fit(training, loader, ckpt_path=checkpoint if resume else None, weights_only=True)

    unreadable = sorted(training.unreadable)
    info = SupernetInfo(
        space,
        method.name,
        input_format,
        {
            "recipe": recipe.to_json(),
            "image_size": recipe.image_size,
            "batch_size": batch,
            "steps": steps,
            "epochs": steps * batch / len(images),
            "seed": seed,
            "images": len(images),
            "unreadable": len(unreadable),
            "data": run["data"],
            "versions": {
                "data_plugin": data_plugin.__version__,
                **{package: version(package) for package in ("torch", "lightly", "lightning")},
            },
        },
    )
    if trainer.is_global_zero:
        save_supernet(out / SUPERNET, Supernet(info, training.query, training.key, method.heads()))
    return Pretrained(out / SUPERNET, steps, len(images), unreadable)


class _Bar(RichProgressBar):
    """A progress bar that shows what is logged and not the loggers' folder."""

    def get_metrics(self, trainer: Trainer, pl_module: Any) -> dict[str, Any]:
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}


class _Progress(Callback):
    """Logs epoch, learning rate, and images per second over the last steps."""

    def __init__(self, images: int, batch_size: int) -> None:
        self.images = images
        self.batch_size = batch_size
        self.times: deque[float] = deque(maxlen=LOG_EVERY + 1)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.times.append(time.perf_counter())
        pl_module.log("epoch", trainer.global_step * self.batch_size / self.images)
        pl_module.log("lr", trainer.optimizers[0].param_groups[0]["lr"])
        if len(self.times) > 1:
            rate = self.batch_size * (len(self.times) - 1) / (self.times[-1] - self.times[0])
            pl_module.log("images/s", rate, prog_bar=True)


class _RunSettings(Callback):
    """Keeps in the checkpoint what it is a checkpoint of."""

    def __init__(self, run: Mapping[str, Any]) -> None:
        self.run = run

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[_RUN] = self.run


class _WholeFiles(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, on the file system that they shall be on."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        write_whole(Path(path), lambda temporary: torch.save(checkpoint, temporary))


def _accelerator(device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no CUDA device that torch can use; expected one for device 'cuda', or use 'cpu'")
    return "gpu" if device != "cpu" and torch.cuda.is_available() else "cpu"


def _loggers(out: Path, start: int) -> list[Logger]:
    # A folder per start, for both loggers begin their files anew.
    folder = f"from_step_{start}"
    loggers: list[Logger] = [CSVLogger(out, LOGS, folder, flush_logs_every_n_steps=LOG_EVERY)]
    if importlib.util.find_spec("tensorboard"):
        loggers.append(TensorBoardLogger(out, LOGS, folder))
    return loggers


def _make_room(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; expected a folder, or a name that is free")
    if not overwrite:
        for path, what in ((out / SUPERNET, "a supernet"), (out / CHECKPOINT, "an unfinished training")):
            if path.exists():
                raise UserError(f"{out} holds {what} already; give another folder, or pass --resume or --overwrite")
    (out / CHECKPOINT).unlink(missing_ok=True)
    shutil.rmtree(out / LOGS, ignore_errors=True)


def _resumed_step(checkpoint: Path, run: Mapping[str, Any]) -> int:
    if not checkpoint.is_file():
        raise UserError(f"there is nothing to resume: {checkpoint} does not exist; leave out --resume")
    contents, _ = read_tensors(checkpoint)
    if _RUN not in contents:
        raise UserError(f"{checkpoint} is no checkpoint of a pre-training here; leave out --resume")
    before, now = _flat(contents[_RUN]), _flat(run)
    for name in [*now, *before]:
        if before.get(name) != now.get(name):
            raise UserError(
                f"{checkpoint} was trained with {name} {before.get(name)}, not {now.get(name)}; "
                "resume with the same settings, or start again with --overwrite"
            )
    return int(contents["global_step"])


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {
        name: leaf for key, inner in value.items() for name, leaf in _flat(inner, f"{prefix}.{key}".lstrip(".")).items()
    }
