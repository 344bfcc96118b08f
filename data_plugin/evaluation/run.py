"""An evaluation made ready from what a user names: files, folders and networks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data_plugin import __version__
from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.evaluation.protocols import Evaluation
from data_plugin.images.labelled import labelled_folder, require_same_classes
from data_plugin.supernet.checkpoint import load_supernet, pretrained_size
from data_plugin.supernet.named_networks import named_networks
from data_plugin.supernet.named_supernet import named_supernet
from data_plugin.utils.errors import UserError
from data_plugin.utils.provenance import file_hash, installed_versions
from data_plugin.utils.ranks import pick_device


def open_evaluation(
    supernet: str | os.PathLike[str],
    archs: Sequence[str],
    train: Path,
    val: Path,
    *,
    path: Sequence[int] | None = None,
    image_size: int | None = None,
    untrained: bool = False,
    device: str = "auto",
    seed: int = 0,
    **options: Any,
) -> tuple[Evaluation, dict[str, Any]]:
    """Read a supernet and two labelled folders.

    Args:
        supernet: the supernet's file, or "shipped" for the one that comes with the package.
        archs: see :func:`named_networks`.
        train: labelled folder.
        val: labelled folder with the same classes.
        path: which sub-net of a supernet with groups; None where it has none.
        image_size: height and width of a network's input; None takes the pre-training's.
        untrained: draw the supernet's weights at random, as a baseline, instead of reading them.
        device: see :func:`pick_device`.
        seed: seed of all that is random, these weights included.
        options: passed to :class:`Evaluation`.

    Returns:
        The evaluation, and what decides its figures as JSON values.

    Raises:
        UserError: if anything that the user gave does not fit.
    """
    place = pick_device(device)
    loaded = load_supernet(supernet, sub_net=None if path is None else tuple(path))
    size = pretrained_size(supernet, loaded.info) if image_size is None else image_size
    networks = named_networks(archs, loaded.info.space)
    train_images, val_images = labelled_folder(train), labelled_folder(val)
    require_same_classes(train_images, val_images)
    network = loaded.query
    if untrained:
        torch.manual_seed(seed)
        network = DynamicResNet(loaded.info.space)
    evaluation = Evaluation(
        network.to(place).eval(),
        networks,
        train_images,
        val_images,
        size,
        loaded.info.input_format,
        seed=seed,
        **options,
    )
    settings = {
        "supernet": {
            "file": os.fspath(supernet),
            "sha256": file_hash(named_supernet(supernet)),
            "method": loaded.info.method,
            "saw_labels": loaded.info.saw_labels,
            **({} if path is None else {"path": list(path)}),
        },
        "weights": "untrained" if untrained else "trained",
        "train": {"folder": str(train), "images": len(train_images)},
        "val": {"folder": str(val), "images": len(val_images)},
        "classes": len(train_images.classes),
        "image_size": size,
        "calibration": evaluation.calibration,
        "batch_size": evaluation.batch_size,
        "seed": seed,
        "device": str(place),
        "versions": {
            "data_plugin": __version__,
            **installed_versions(("torch", "torchvision", "lightly", "lightning", "torchmetrics")),
        },
    }
    return evaluation, settings


def prepare_output(out: Path, name: str, *, resume: bool = False, overwrite: bool = False) -> None:
    """Check that a measurement may be written, and with ``overwrite`` remove an earlier one.

    Args:
        out: the output folder, which may hold other measurements.
        name: the measurement, such as ``linear``; its checkpoints are in a folder of that name.
        resume: whether an unfinished one goes on.
        overwrite: whether an earlier one may be replaced.

    Raises:
        UserError: if the folder is a file, holds that measurement and neither is set, or there is nothing to resume.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; expected a folder, or a name that is free")
    results, checkpoints = [out / f"{name}.json", out / f"{name}.csv"], out / name
    held = [path for path in (*results, checkpoints) if path.exists()]
    if resume and not checkpoints.is_dir():
        raise UserError(f"there is nothing to resume: {checkpoints} does not exist; leave out --resume")
    if held and not (resume or overwrite):
        raise UserError(f"{held[0]} exists already; give another --out, or pass --overwrite, or --resume if unfinished")
    if overwrite:
        shutil.rmtree(checkpoints, ignore_errors=True)
        for path in results:
            path.unlink(missing_ok=True)
