"""A whole routing: from a task's images to the sub-net that has seen such, with its weights and configs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_plugin import __version__
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.features.codes import Codes, leaf_numbers
from data_plugin.features.embedder import Embedder, read_embedder
from data_plugin.features.store import NETWORK
from data_plugin.images.batch import ImageBatches, ImageSource, draw_batches
from data_plugin.images.input_format import InputFormat
from data_plugin.images.open import open_images
from data_plugin.routing.accuracies import NEIGHBOURS, accuracies
from data_plugin.routing.page import route_page
from data_plugin.routing.recropped import RecroppedImages
from data_plugin.routing.route import BACKBONE, SUPERNET, Route, Similarity
from data_plugin.routing.votes import Votes
from data_plugin.search.downstream import CroppedImages, Downstream, classification_task, config_task
from data_plugin.search.report.folder import require_free
from data_plugin.search.searcher import Searcher
from data_plugin.space.arch import Arch
from data_plugin.supernet.backbone_files import PTH_FILE, save_backbone
from data_plugin.supernet.checkpoint import (
    RoutedSupernet,
    Supernet,
    load_routed_supernet,
    load_supernet,
    pretrained_size,
    save_supernet,
)
from data_plugin.supernet.named_networks import named_networks
from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole_folder
from data_plugin.utils.progress import progress_over
from data_plugin.utils.provenance import file_hash, installed_versions
from data_plugin.utils.ranks import launched_ranks, pick_device

JSON, HTML = "route.json", "route.html"
"""The files of the output folder that say what came of it."""

EMBEDDED_TOGETHER = 64
"""Images that pass through the network of the codes at once."""

CALIBRATED_ON = 256
"""Images that the batch-norm statistics of the network that is written are taken on, at the most."""


def route_supernet(
    supernet: str | os.PathLike[str],
    config: str | None = None,
    *,
    codes: str | os.PathLike[str],
    out: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    framework: str | None = None,
    data_root: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    options: Sequence[str] = (),
    labels: str | os.PathLike[str] | None = None,
    unified: str | os.PathLike[str] | None = None,
    neighbours: int = NEIGHBOURS,
    path: Sequence[int] | None = None,
    arch: str = "largest",
    image_count: int | None = 1_024,
    batch_size: int = 4,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
) -> Route:
    """Find the sub-net of a supernet with groups that was trained on images like those of a task.

    The images are given codes as those of the pre-training have them, by the network and the centroids of these; the
    sub-net that most of them fall to is the route (after SDR, our design). With labelled images it is the one that
    classifies these best by their nearest neighbours; without, no labels are read.

    Args:
        supernet: a supernet that was trained with codes.
        config: name or path of a detector's or segmenter's config; None routes for images that are classified.
        codes: the codes that it was trained with.
        out: the output folder.
        images: the images, see :func:`~data_plugin.images.open.open_images`; None takes the config's training images.
        framework: the framework; None picks one, see :func:`~data_plugin.frameworks.registry.find_framework`.
        data_root: folder of the config's data sets; None leaves the config's.
        classes: the classes of objects that the written config is for; None leaves them to the config.
        options: ``KEY=VALUE`` changes of the config.
        labels: labelled images, a sub-folder a class; without a config and other images they are routed, too.
        unified: a supernet without groups, measured on the labelled images beside the sub-nets.
        neighbours: how many labelled images vote on the class of each.
        path: take this sub-net, a group for each level, whatever the images say.
        arch: which network of the sub-net is written, see :func:`~data_plugin.supernet.named_networks.named_networks`.
        image_count: images that are drawn, of the labelled ones as well; None takes all.
        batch_size: images that pass through the written network together when its batch-norm statistics are taken.
        seed: of the draw.
        device: see :func:`~data_plugin.utils.ranks.pick_device`.
        overwrite: replace what is in ``out``.

    Raises:
        UserError: if the supernet has no groups or was trained with other codes, there is no such sub-net, the config
            does not fit, there are no images or one cannot be read, or ``out`` holds something.
    """
    folder = Path(out)
    if launched_ranks() != (1, 1):
        raise UserError("routing is the work of one process; do it without torchrun")
    require_free(folder, overwrite, resume=False)
    loaded, opened = load_routed_supernet(supernet), Codes.read(Path(codes))
    _require_of_codes(os.fspath(supernet), loaded, opened)
    if path is not None:
        loaded.query.require_path(tuple(path))
    (chosen,) = named_networks([arch], loaded.info.space)
    if unified is not None and labels is None:
        raise UserError("a unified supernet is measured on labelled images, and there are none; give labels")
    beside = None if unified is None else load_supernet(unified)
    if beside is not None:
        loaded.info.input_format.require(beside.info.input_format, f"the pre-training of {os.fspath(unified or '')}")
    if config is None and images is None:
        images = labels
    place = pick_device(device)
    embedder = read_embedder(opened.folder / NETWORK, opened.header.store, place)
    task = _task(supernet, loaded, config, images, framework, data_root, classes, options)
    source = _as_embedded(task, None if config else images, loaded.info.input_format, embedder)

    drawn = draw_batches(source, image_count, EMBEDDED_TOGETHER, seed)
    features = _embedded(drawn, embedder)
    digits = opened.assign(features)
    votes = Votes.of(digits, opened.header.children, seed)
    measured = None
    if labels is not None:
        measured = accuracies(
            loaded,
            chosen,
            Path(labels),
            pretrained_size(supernet, loaded.info),
            unified=beside,
            count=image_count,
            neighbours=neighbours,
            seed=seed,
            device=place,
        )
    found = votes.first if measured is None else measured.best
    taken = found if path is None else tuple(path)
    sub_net = loaded.along(taken)
    calibration = draw_batches(task.images, min(CALIBRATED_ON, len(features)), batch_size, seed)
    network = _network(sub_net, chosen, task, calibration, place)
    leaves = leaf_numbers(digits, opened.header.children)
    route = Route(
        folder,
        taken,
        chosen,
        votes,
        _similarity(features, leaves, opened),
        configs=[folder / BACKBONE / name for name in task.configs],
        accuracies=measured,
        control=opened.header.random,
    )
    about = {
        "supernet": {"path": os.fspath(supernet), "sha256": file_hash(Path(supernet))},
        "codes": {"path": str(opened.folder), "fingerprint": opened.fingerprint()},
        "config": config,
        "framework": task.framework,
        "data_root": None if data_root is None else os.fspath(data_root),
        "images": task.place,
        "labels": None if labels is None else os.fspath(labels),
        "unified": None if unified is None else os.fspath(unified),
        "neighbours": None if labels is None else neighbours,
        "image_source_sha256": task.fingerprint,
        "seed": seed,
    }
    page = route_page(route, opened, leaves, drawn, embedder, about)
    _write(route, sub_net, network, task, page, about)
    return route


def _require_of_codes(path: str, supernet: RoutedSupernet, codes: Codes) -> None:
    groups = supernet.info.groups
    assert groups is not None
    if groups.codes != codes.fingerprint():
        raise UserError(
            f"{path} was trained with other codes than those in {codes.folder}; give the folder of codes that "
            "data-pretrain --codes was given"
        )


def _task(
    supernet: str | os.PathLike[str],
    loaded: RoutedSupernet,
    config: str | None,
    images: str | os.PathLike[str] | None,
    framework: str | None,
    data_root: str | os.PathLike[str] | None,
    classes: Sequence[str] | None,
    options: Sequence[str],
) -> Downstream:
    """The task whose images are routed."""
    of_config = {"framework": framework, "classes": classes, "options": options}
    if config is not None:
        return config_task(
            config,
            loaded.info.input_format,
            task=None,
            framework=framework,
            data_root=None if data_root is None else Path(data_root),
            classes=classes,
            options=options,
            images=None if images is None else Path(images),
        )
    if images is None:
        raise UserError("nothing says what to route for; expected a config, or a folder of images")
    for name, given in of_config.items():
        if given:
            raise UserError(f"{name} was given, which is for a framework's config, and there is none; leave it out")
    return classification_task(Path(images), None, supernet, loaded.info)


def _as_embedded(
    task: Downstream, images: str | os.PathLike[str] | None, input_format: InputFormat, embedder: Embedder
) -> ImageSource:
    """The images of the task, as the network of the codes saw those of the pre-training."""
    if images is None:
        return RecroppedImages(task.images, input_format, embedder)
    size, own = embedder.preprocessing["centre_crop"], embedder.preprocessing["input_format"]
    return CroppedImages(open_images(Path(images)), size, InputFormat.from_json(own))


def _embedded(batches: ImageBatches, embedder: Embedder) -> np.ndarray:
    """The features of images, (N, C), in double precision."""
    found = []
    with progress_over(sum(map(len, batches.parts)), "images") as advance:
        for batch in batches:
            features = embedder(batch.images)
            finite = np.isfinite(features).all(axis=1)
            if not finite.all():
                name = batch.names[int(finite.argmin())]
                raise UserError(f"the codes' network has no finite feature of {name}; replace or remove the image")
            found.append(features.astype(np.float64))
            advance(len(batch.names))
    return np.concatenate(found)


def _similarity(features: np.ndarray, leaves: np.ndarray, codes: Codes) -> Similarity:
    centroids, mean = codes.centroids[-1], features.mean(axis=0)
    return Similarity(
        by_sub_net=(centroids @ mean).tolist(),
        nearest=float(np.einsum("nc,nc->n", features, centroids[leaves]).mean()),
        whole=float(codes.centroid @ mean),
    )


def _network(sub_net: Supernet, arch: Arch, task: Downstream, batches: ImageBatches, place: torch.device) -> DATAResNet:
    """One network of the sub-net, with batch-norm statistics of the task's images, as a search leaves its winners."""
    searcher = Searcher(sub_net.at(place, **task.resolution.options()), task.taps)
    with progress_over(sum(map(len, batches.parts)), "images for the batch norms") as advance:
        (network,) = searcher.extract([arch], batches, advance)
    return network


def _write(
    route: Route, sub_net: Supernet, network: DATAResNet, task: Downstream, page: str, about: dict[str, Any]
) -> None:
    weights = (route.out / BACKBONE / PTH_FILE).resolve()
    values = {
        "route": list(route.path),
        "arch": str(route.arch),
        "votes": route.votes.to_json(),
        "similarity": route.similarity.to_json(),
        "accuracies": None if route.accuracies is None else route.accuracies.to_json(),
        "doubts": route.doubts,
        **about,
        "versions": {"data_plugin": __version__, **installed_versions([*task.distributions, "torch", "numpy"])},
    }

    def fill(folder: Path) -> None:
        save_backbone(folder / BACKBONE, network)
        for name, write in task.configs.items():
            write(route.arch, weights, folder / BACKBONE / name)
        save_supernet(folder / SUPERNET, sub_net)
        (folder / HTML).write_text(page, encoding="utf-8")
        (folder / JSON).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    write_whole_folder(route.out, fill)
