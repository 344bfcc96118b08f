"""A whole pre-training: from images to the file of a supernet."""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

import data_plugin
from data_plugin.checkpoint import Supernet, SupernetInfo, save_supernet
from data_plugin.errors import UserError
from data_plugin.files import read_tensors
from data_plugin.input_format import InputFormat
from data_plugin.pretrain.augmentation import Colours, crops, whole_views
from data_plugin.pretrain.callbacks import RUN, Bar, RunSettings, Speed, Unreadable, WholeFiles
from data_plugin.pretrain.images import open_images
from data_plugin.pretrain.recipe import Recipe
from data_plugin.pretrain.synced_batch_norm import synchronise
from data_plugin.pretrain.training import SupernetTraining
from data_plugin.pretrain.views import EpochStream, Views, collate
from data_plugin.space import SearchSpace

SUPERNET = "supernet.safetensors"
"""The file in the output folder that holds the trained supernet."""

CHECKPOINT = Path("checkpoints", "last.ckpt")
"""The file in the output folder that a stopped training goes on from."""

LOGS = "logs"
"""The folder in the output folder for CSV and TensorBoard logs."""

LOG_EVERY = 10
"""Steps between two entries in the logs."""

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed", "fp64": "64-true"}
"""Lightning's names of the precisions."""


@dataclass(frozen=True)
class Pretrained:
    """What a pre-training came to.

    Args:
        path: the supernet's file.
        steps: number of steps, those before a resume included.
        images: number of images.
        unreadable: names of images that could not be read, in whose place others stood.
    """

    path: Path
    steps: int
    images: int
    unreadable: list[str]


@dataclass(frozen=True)
class Labelled:
    """Labelled images for a look at what the features are worth meanwhile; nothing is trained on the labels.

    Args:
        train: folder with a sub-folder of images for each class.
        val: another with the same classes.
        every: epochs between two looks.
    """

    train: Path
    val: Path
    every: float = 10


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
    precision: str = "fp32",
    accumulate: int = 1,
    with_cp: bool = False,
    views_on: str = "workers",
    knn: Labelled | None = None,
    checkpoint_every: int = 500,
    resume: bool = False,
    overwrite: bool = False,
    max_unreadable: int | None = None,
) -> Pretrained:
    """Pre-train a supernet (DATA, Algorithm 1) on unlabelled images, in all processes that torchrun or SLURM started.

    On a CPU the result depends on the arguments up to ``seed``, on ``accumulate`` and the number of torch's threads
    alone: a training that was stopped and resumed ends with the same bits. With several processes, which share every
    batch, it is the same to rounding.

    Args:
        data: see :func:`open_images`.
        space: the search space.
        recipe: method and hyper-parameters.
        out: output folder: ``supernet.safetensors``, and meanwhile ``checkpoints/`` and ``logs/``.
        steps: number of steps instead of the recipe's epochs.
        seed: seed of weights, order, views and random networks.
        workers: processes that read images, for each training process; 0 reads them in this one.
        device: "cpu", "cuda", or "auto" for CUDA where there is one.
        precision: a name of :data:`PRECISIONS`; the halves keep weights, losses and statistics in float32.
        accumulate: parts that every batch is computed in, one after the other, each with batch-norm statistics of its
            own.
        with_cp: recompute blocks in the backward pass instead of keeping their activations.
        views_on: "workers" makes whole views there; "device" makes crops there and their colours where the networks
            are, which spares CPUs that cannot keep up with a GPU. Colours then depend on the number of processes.
        knn: labelled images to measure networks on meanwhile.
        checkpoint_every: steps between two checkpoints.
        resume: go on from the checkpoint in ``out``.
        overwrite: replace what an earlier training left in ``out``.
        max_unreadable: how many images may turn out to be unreadable, others standing in; one in a thousand where it
            is left out.

    Raises:
        UserError: if there are no images or fewer than a batch, too many of them cannot be read, a batch cannot be
            shared, ``out`` holds another training, there is nothing to resume or it has other settings, there is no
            CUDA device, or the loss is not finite.
    """
    accelerator = _accelerator(device, precision)
    if views_on not in ("workers", "device"):
        raise UserError(f"views cannot be made on {views_on!r}; expected 'workers' or 'device'")
    images = open_images(data)
    batch = recipe.batch_size
    if len(images) < batch:
        raise UserError(f"{data} holds {len(images)} images, fewer than a batch of {batch}; lower the batch size")
    input_format = InputFormat.imagenet()
    if steps is None:
        steps = max(1, recipe.epochs * len(images) // batch)
    run = {
        "space": space.to_json(),
        "recipe": recipe.to_json(),
        "steps": steps,
        "seed": seed,
        "images": len(images),
        "data": images.fingerprint(),
        "accumulate": accumulate,
        "precision": precision,
        "views_on": views_on,
    }
    checkpoint = out / CHECKPOINT
    start = _resumed_step(checkpoint, run) if resume else 0
    unreadable = Unreadable(len(images) // 1_000 if max_unreadable is None else max_unreadable, len(images))
    watched = []
    if knn is not None:
        from data_plugin.pretrain.online_knn import OnlineKNN

        every = round(knn.every * len(images) / batch)
        watched.append(OnlineKNN(knn.train, knn.val, every, space, recipe.image_size, input_format, batch, workers))
    devices, nodes = _processes()
    trainer = Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=_strategy(devices * nodes, accelerator),
        precision=PRECISIONS[precision],  # type: ignore[arg-type]
        accumulate_grad_batches=accumulate,
        max_steps=steps,
        max_epochs=1,
        default_root_dir=out,
        logger=_loggers(out, start),
        log_every_n_steps=min(LOG_EVERY, steps),
        callbacks=[
            ModelCheckpoint(
                checkpoint.parent, checkpoint.stem, every_n_train_steps=checkpoint_every, enable_version_counter=False
            ),
            Bar(),
            Speed(len(images), batch, accumulate, LOG_EVERY),
            unreadable,
            *watched,
            RunSettings(run),
        ],
        plugins=[WholeFiles()],
        use_distributed_sampler=False,
        enable_model_summary=False,
    )
    ranks = trainer.world_size
    if accumulate < 1 or batch % (ranks * accumulate):
        raise UserError(
            f"a batch of {batch} cannot be shared by {ranks} processes in {accumulate} parts each; "
            "expected a batch size that their product divides"
        )
    if not resume and trainer.is_global_zero:
        _make_room(out, overwrite)

    torch.manual_seed(seed)
    training = SupernetTraining(space, recipe, steps, seed, with_cp)
    distributions = training.method.views
    if views_on == "device":
        training.colours = Colours(distributions, input_format)
        transform = crops(distributions, recipe.image_size)
    else:
        transform = whole_views(distributions, recipe.image_size, input_format)
    if ranks > 1:
        synchronise(training)
    micro_batch = batch // accumulate
    loader = DataLoader(
        Views(images, transform, seed),
        batch_size=micro_batch // ranks,
        sampler=EpochStream(
            images, steps * batch, micro_batch, start * batch, seed, rank=trainer.global_rank, ranks=ranks
        ),
        num_workers=workers,
        collate_fn=collate,
        pin_memory=accelerator == "gpu",
        persistent_workers=workers > 0,
    )
    with warnings.catch_warnings():
        # Lightning looks for a data loader with a state; the position of EpochStream is the step.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch")
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        warnings.filterwarnings("ignore", message="`isinstance.treespec, LeafSpec", category=FutureWarning)
        trainer.fit(training, loader, ckpt_path=checkpoint if resume else None, weights_only=True)

    names = unreadable.everywhere()
    info = SupernetInfo(
        space,
        recipe.method,
        input_format,
        {
            "recipe": recipe.to_json(),
            "image_size": recipe.image_size,
            "batch_size": batch,
            "steps": steps,
            "epochs": steps * batch / len(images),
            "seed": seed,
            "images": len(images),
            "unreadable": len(names),
            "data": run["data"],
            "accumulate": accumulate,
            "precision": precision,
            "views_on": views_on,
            "processes": ranks,
            "versions": {
                "data_plugin": data_plugin.__version__,
                **{package: version(package) for package in ("torch", "lightly", "lightning")},
            },
        },
    )
    if trainer.is_global_zero:
        save_supernet(out / SUPERNET, Supernet(info, training.query, training.key, training.method.heads()))
    return Pretrained(out / SUPERNET, steps, len(images), names)


def _accelerator(device: str, precision: str) -> str:
    if precision not in PRECISIONS:
        raise UserError(f"{precision!r} is not a precision; expected {', '.join(PRECISIONS)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no CUDA device that torch can use; expected one for device 'cuda', or use 'cpu'")
    accelerator = "gpu" if device != "cpu" and torch.cuda.is_available() else "cpu"
    if precision == "fp16" and accelerator == "cpu":
        raise UserError("fp16 is for CUDA devices; expected precision bf16 or fp32 on a CPU")
    return accelerator


def _processes() -> tuple[int, int]:
    """Processes on each node, and nodes, as torchrun or SLURM started them; 1 and 1 without either."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    if "SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return 1, 1


def _strategy(processes: int, accelerator: str) -> str | DDPStrategy:
    if processes == 1:
        return "auto"
    # Queues and statistics are the same everywhere already.
    return DDPStrategy(process_group_backend="nccl" if accelerator == "gpu" else "gloo", broadcast_buffers=False)


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
    shutil.rmtree((out / CHECKPOINT).parent, ignore_errors=True)
    shutil.rmtree(out / LOGS, ignore_errors=True)


def _resumed_step(checkpoint: Path, run: Mapping[str, Any]) -> int:
    if not checkpoint.is_file():
        raise UserError(f"there is nothing to resume: {checkpoint} does not exist; leave out --resume")
    contents, _ = read_tensors(checkpoint)
    if RUN not in contents:
        raise UserError(f"{checkpoint} is no checkpoint of a pre-training here; leave out --resume")
    for unfinished in checkpoint.parent.glob(f".{checkpoint.name}.*.tmp"):
        unfinished.unlink(missing_ok=True)  # of a process that was killed while it wrote
    before, now = _flat(contents[RUN]), _flat(run)
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
