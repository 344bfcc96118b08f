"""A whole pre-training: from images to the file of a supernet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.accelerators import CUDAAccelerator
from torch.utils.data import DataLoader

import data_plugin
from data_plugin.images.image_files import Images
from data_plugin.images.input_format import InputFormat
from data_plugin.images.open import open_images
from data_plugin.pretrain.augmentation import Colours, crops, located, whole_views
from data_plugin.pretrain.callbacks import RunSettings, Speed, Unreadable
from data_plugin.pretrain.coded_views import CodedViews, CodeStream, collate_coded
from data_plugin.pretrain.output_folder import CHECKPOINT, SUPERNET, TEACHER, make_room, resumed_step
from data_plugin.pretrain.recipe import Recipe, default_recipe, read_recipe
from data_plugin.pretrain.routed_step import RoutedTraining
from data_plugin.pretrain.step import SupernetTraining
from data_plugin.pretrain.subsets import Subsets, open_subsets
from data_plugin.pretrain.synced_batch_norm import synchronise
from data_plugin.pretrain.trainer import LOG_EVERY, PRECISIONS, accelerator_of, fit, trainer_for
from data_plugin.pretrain.views import EpochStream, LocatedViews, Views, collate, collate_located
from data_plugin.space.named_space import read_space
from data_plugin.space.search_space import SearchSpace
from data_plugin.supernet.checkpoint import Groups, SupernetInfo, save_supernet
from data_plugin.supernet.foreign_weights import BackboneWeights, read_backbone
from data_plugin.supernet.named_supernet import named_supernet
from data_plugin.utils.errors import UserError
from data_plugin.utils.facts_table import facts_table
from data_plugin.utils.provenance import file_hash
from data_plugin.utils.ranks import launched_ranks
from data_plugin.utils.workers import spare_cores

INPUT_FORMAT = InputFormat.imagenet()
"""Channel order and normalisation of every supernet that is trained here."""


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

    def __fspath__(self) -> str:
        """The supernet's file: what takes a path takes this too."""
        return str(self.path)

    def _repr_html_(self) -> str:
        """What notebooks show."""
        counts = {"steps": self.steps, "images": self.images, "unreadable images": len(self.unreadable)}
        return facts_table({"supernet": self.path, **{name: f"{count:,}" for name, count in counts.items()}})


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


def pretrain_supernet(
    images: str | Path,
    space: SearchSpace | str | Path = "micro",
    *,
    out: str | Path,
    recipe: Recipe | str | Path | None = None,
    changes: Sequence[str] = (),
    steps: int | None = None,
    epochs_like: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    accumulate: int = 1,
    with_cp: bool = False,
    views_on: str = "workers",
    knn: Labelled | None = None,
    codes: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    init: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    max_unreadable: int | None = None,
) -> Pretrained:
    """Pre-train a supernet (DATA, Algorithm 1) on unlabelled images, in all processes that torchrun or SLURM started.

    On a CPU the result depends on the arguments up to ``seed``, on ``precision``, ``accumulate``, ``views_on`` and the
    number of torch's threads alone: a training that was stopped and resumed ends with the same bits. With several
    processes, which share every batch, it is the same to rounding, unless the recipe's ``norm_statistics`` are
    "shuffled": then every number of processes trains other networks.

    Args:
        images: a folder of images, at any depth; a folder of ``.tar`` shards; or a ``.txt`` file that names an image
            per line.
        space: the search space, its name or its file, see :func:`~data_plugin.space.named_space.read_space`.
        out: output folder: ``supernet.safetensors``, and meanwhile ``checkpoints/`` and ``logs/``, and ``teacher/``
            where a frozen teacher's answers are remembered.
        recipe: method and hyper-parameters, a recipe's name or its file; None takes the space's.
        changes: ``name=value`` each, values to replace in a recipe that is read, such as ``epochs=5``.
        steps: number of steps instead of the recipe's epochs.
        epochs_like: take as many steps as the recipe's epochs are on that many images, whatever their number here; so a
            small set of images is seen more often (SimCore, section 4.1).
        seed: seed of weights, order, views and random networks.
        workers: processes that read images, for each training process; 0 reads them in this one, None takes the spare
            cores.
        device: "cpu", "cuda", or "auto" for CUDA where there is one.
        precision: a name of :data:`PRECISIONS`; the halves keep weights, losses and statistics in float32, and fp16
            scales the loss (:class:`LossScale`).
        accumulate: parts that every batch is computed in, one after the other, each with batch-norm statistics of its
            own.
        with_cp: recompute blocks in the backward pass instead of keeping their activations.
        views_on: "workers" makes whole views there; "device" makes crops there and their colours where the networks
            are, which spares CPUs that cannot keep up with a GPU. Colours then depend on the number of processes.
        knn: labelled images to measure networks on meanwhile.
        codes: the folder of the images' codes, for a recipe with ``codes_per_batch``: a sub-net for each code, trained
            on the images that have it (:class:`RoutedTraining`).
        checkpoint_every: steps between two checkpoints.
        init: weights that both branches start from: a file, or "shipped" for the supernet that comes with the package,
            see :func:`read_backbone` and :func:`start_from`; heads start anew.
        resume: go on from the checkpoint in ``out``.
        overwrite: replace what an earlier training left in ``out``.
        max_unreadable: how many images may turn out to be unreadable, others standing in; one in a thousand where it
            is left out.

    Returns:
        What it came to; :func:`~data_plugin.search_supernet` takes it as it is.

    Raises:
        UserError: if there are no images or fewer than a batch, too many of them cannot be read, a batch cannot be
            shared, images are to be shuffled over one process, ``init`` holds no weights that fit, ``out`` holds
            another training, there is nothing to resume or it has other settings, there is no CUDA device, the loss
            is not finite, the gradients are not whatever the loss scale, packages are missing, or codes are of other
            images or do not fit the recipe.
    """
    out = Path(out)
    workers = spare_cores() if workers is None else workers
    space = space if isinstance(space, SearchSpace) else read_space(str(space))
    if recipe is None:
        recipe = default_recipe(space)
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(str(recipe), changes)
    accelerator = accelerator_of(device)
    if precision not in PRECISIONS:
        raise UserError(f"{precision!r} is not a precision; expected {', '.join(PRECISIONS)}")
    if views_on not in ("workers", "device"):
        raise UserError(f"views cannot be made on {views_on!r}; expected 'workers' or 'device'")
    if accumulate < 1:
        raise UserError(f"every batch was to be computed in {accumulate} parts; expected at least 1")
    data = open_images(Path(images))
    batch = recipe.batch_size
    if len(data) < batch:
        raise UserError(f"{images} holds {len(data)} images, fewer than a batch of {batch}; lower the batch size")
    if epochs_like is not None and epochs_like < batch:
        raise UserError(f"epochs like those of {epochs_like} images, fewer than a batch of {batch}; expected more")
    source, started_from = (None, None) if init is None else _source(init)
    if steps is None:
        steps = max(1, recipe.epochs * (epochs_like or len(data)) // batch)
    if codes is not None and knn is not None:
        raise UserError("a kNN evaluation measures one supernet, and codes train many sub-nets; leave out one of them")
    subsets = open_subsets(codes, data, recipe, steps, accumulate)
    run = _Run(
        space,
        recipe,
        processes=_processes(recipe),
        steps=steps,
        seed=seed,
        images=len(data),
        data=data.fingerprint(),
        accumulate=accumulate,
        precision=precision,
        views_on=views_on,
        init=started_from,
        codes=None if subsets is None else subsets.to_json(),
    )
    start = resumed_step(out / CHECKPOINT, run.to_json()) if resume else 0
    unreadable = Unreadable(len(data) // 1_000 if max_unreadable is None else max_unreadable, len(data))
    speed = Speed(len(data), batch, accumulate, LOG_EVERY)
    callbacks: list[Callback] = [speed, RunSettings(run.to_json()), unreadable]
    if knn is not None:
        callbacks.append(_online_knn(knn, run, workers))
    trainer = trainer_for(
        out,
        start,
        steps=run.steps,
        precision=precision,
        accumulate=accumulate,
        accelerator=accelerator,
        checkpoint_every=checkpoint_every,
        callbacks=callbacks,
    )
    _require_even_shares(run, trainer.world_size, 1 if subsets is None else subsets.parts)
    training = _training(run, subsets, with_cp, trainer.world_size)
    training.teacher = training.method.open_teacher(out / TEACHER / f"rank_{trainer.global_rank}")
    if training.teacher is not None and recipe.teacher == "same-arch":
        raise UserError(f"{recipe.method} has a teacher of its own; leave out teacher = 'same-arch'")
    views = _views(run, data, training)
    loader = _loader(run, views, subsets, start, trainer, workers)
    if source is not None and not resume:
        trainer.print(training.start_from(source))
    if not resume and trainer.is_global_zero:
        make_room(out, overwrite)

    fit(trainer, training, loader, out / CHECKPOINT if resume else None)

    names = unreadable.everywhere()
    if trainer.is_global_zero:
        info = _info(run, subsets, len(names), trainer.world_size)
        save_supernet(out / SUPERNET, training.supernet(info))
    return Pretrained(out / SUPERNET, run.steps, len(data), names)


@dataclass(frozen=True)
class _Run:
    """What decides a training's result, all of which has to be the same where it is resumed."""

    space: SearchSpace
    recipe: Recipe
    processes: int | None
    """How many, where this decides the result."""
    steps: int
    seed: int
    images: int
    data: str
    accumulate: int
    precision: str
    views_on: str
    init: Mapping[str, Any] | None = None
    codes: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "space": self.space.to_json(), "recipe": self.recipe.to_json()}


def _source(init: str | os.PathLike[str]) -> tuple[BackboneWeights, dict[str, Any]]:
    """The weights to start from, and what they are."""
    path = named_supernet(init)
    if not path.is_file():
        raise UserError(f"the weights {path} are not a file; expected a supernet or a ResNet's weights")
    source = read_backbone(init)
    said = {} if source.saw_labels is None else {"saw_labels": source.saw_labels}
    return source, {"file": source.file, "sha256": file_hash(path), **said}


def _online_knn(knn: Labelled, run: _Run, workers: int) -> Callback:
    from data_plugin.pretrain.online_knn import OnlineKNN

    recipe = run.recipe
    every = round(knn.every * run.images / recipe.batch_size)
    return OnlineKNN(knn.train, knn.val, every, run.space, recipe.image_size, INPUT_FORMAT, recipe.batch_size, workers)


def _require_even_shares(run: _Run, ranks: int, codes: int) -> None:
    batch = run.recipe.batch_size
    if batch % (ranks * run.accumulate * codes):
        of_codes = f" of {codes} codes" if codes > 1 else ""
        raise UserError(
            f"a batch of {batch} cannot be shared by {ranks} processes in {run.accumulate} parts{of_codes} each; "
            "expected a batch size that their product divides"
        )


def _training(run: _Run, subsets: Subsets | None, with_cp: bool, ranks: int) -> SupernetTraining:
    torch.manual_seed(run.seed)
    if subsets is None:
        training = SupernetTraining(run.space, run.recipe, run.steps, run.seed, with_cp)
    else:
        training = RoutedTraining(run.space, run.recipe, subsets.phases, run.steps, run.seed, with_cp)
    if run.views_on == "device":
        training.colours = Colours(training.method.views, INPUT_FORMAT)
    if ranks > 1 and run.recipe.norm_statistics == "synced":
        synchronise(training)
    return training


def _views(run: _Run, images: Images, training: SupernetTraining) -> Views:
    size, distributions = run.recipe.image_size, training.method.views
    if training.teacher is not None:
        whole = INPUT_FORMAT if run.views_on == "workers" else None
        return LocatedViews(images, located(distributions, size, whole), run.seed, training.teacher.given.size)
    if run.views_on == "device":
        return Views(images, crops(distributions, size), run.seed)
    return Views(images, whole_views(distributions, size, INPUT_FORMAT), run.seed)


def _loader(
    run: _Run, views: Views, subsets: Subsets | None, start: int, trainer: Trainer, workers: int
) -> DataLoader[Any]:
    """This process's part of every batch from step ``start`` on."""
    batch, part = run.recipe.batch_size, run.recipe.batch_size // run.accumulate
    position = (start * batch, run.seed, trainer.global_rank, trainer.world_size)
    samples: Any = views
    sampler: Any = EpochStream(views.images, run.steps * batch, part, *position)
    put_together: Any = collate_located if isinstance(views, LocatedViews) else collate
    if subsets is not None:
        dealt = (subsets.digits, subsets.phases, run.steps, batch, part, subsets.parts)
        samples, put_together = CodedViews(views), collate_coded(put_together)
        sampler = CodeStream(views.images, *dealt, *position)
    return DataLoader(
        samples,
        batch_size=part // trainer.world_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=put_together,
        pin_memory=isinstance(trainer.accelerator, CUDAAccelerator),
        persistent_workers=workers > 0,
    )


def _info(run: _Run, subsets: Subsets | None, unreadable: int, processes: int) -> SupernetInfo:
    recipe = run.recipe
    settings = {name: value for name, value in run.to_json().items() if name != "space"}
    return SupernetInfo(
        run.space,
        recipe.method,
        INPUT_FORMAT,
        {
            **settings,
            "image_size": recipe.image_size,
            "batch_size": recipe.batch_size,
            "epochs": run.steps * recipe.batch_size / run.images,
            "unreadable": unreadable,
            "processes": processes,
            "versions": {
                "data_plugin": data_plugin.__version__,
                **{package: version(package) for package in ("torch", "lightly", "lightning")},
            },
        },
        None if subsets is None else Groups(subsets.phases.children, subsets.phases.levels, subsets.codes),
    )


def _processes(recipe: Recipe) -> int | None:
    if recipe.norm_statistics == "synced":
        return None
    devices, nodes = launched_ranks()
    if devices * nodes == 1:
        raise UserError(
            "norm_statistics is 'shuffled', which shuffles images over processes, and there is one; start several with "
            "torchrun or srun, or leave it at 'synced'"
        )
    return devices * nodes
