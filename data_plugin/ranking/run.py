"""Networks fine-tuned alike, with a supernet's weights and with random ones: what each comes to."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_plugin.backbones.pretrained import PTH_FILE
from data_plugin.frameworks.finetuned import Finetuned, Training, Weights
from data_plugin.frameworks.framework import MAIN_METRIC, Task
from data_plugin.frameworks.framework_config import LAST_CHECKPOINT, FrameworkConfig
from data_plugin.frameworks.registry import find_framework
from data_plugin.frameworks.run import METRICS, run_finetune
from data_plugin.images.batch import draw_batches
from data_plugin.search.searcher import Searcher
from data_plugin.supernet.backbone_files import save_backbone
from data_plugin.supernet.checkpoint import Supernet, load_supernet
from data_plugin.supernet.named_networks import named_networks
from data_plugin.supernet.named_supernet import named_supernet
from data_plugin.supernet.random_start import random_start
from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole
from data_plugin.utils.provenance import file_hash, installed_versions
from data_plugin.utils.ranks import pick_device

COMPARISON = "comparison.json"
"""The file in the output folder that holds settings and metrics."""

STATISTICS_IMAGES = 64
"""Images that a network's batch norms are calibrated on before its fine-tuning."""


@dataclass(frozen=True)
class Comparison:
    """Everything that was fine-tuned alike.

    Args:
        settings: what all have in common.
        metric: the one that counts, of those that the framework gives.
        finetuned: every training.
    """

    settings: Mapping[str, Any]
    metric: str
    finetuned: list[Finetuned]

    def values(self, name: str, weights: Weights) -> list[float]:
        """The metric of a network over the seeds."""
        found = (each for each in self.finetuned if (each.name, each.weights) == (name, weights))
        return [each.metrics[self.metric] for each in found]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        rows = [each.to_json() for each in self.finetuned]
        return {"settings": dict(self.settings), "metric": self.metric, "finetuned": rows}


def finetune_alike(
    supernet: str | os.PathLike[str],
    config: str,
    out: str | Path,
    *,
    archs: Sequence[str] = ("smallest", "middle", "largest"),
    weights: Sequence[Weights] = ("supernet", "random"),
    seeds: Sequence[int] = (0,),
    **options: Any,
) -> Comparison:
    """Fine-tune networks of a supernet by one config, each with the supernet's weights and with random ones.

    Args:
        supernet: the supernet's file, or "shipped" for the one that comes with the package.
        config: config name or path of a detector or segmenter.
        out: output folder: a folder for each training, and ``comparison.json``.
        archs: the networks, see :func:`named_networks`.
        weights: what backbones start from.
        seeds: the framework's seeds; every network is trained with each of them.
        options: further arguments of :func:`finetune_each`.

    Raises:
        UserError: if anything that was given does not fit, such as an ``out`` of another comparison.
    """
    space = load_supernet(supernet).info.space
    networks = {name: named_networks([name], space)[0] for name in archs}
    wanted = itertools.product(seeds, networks.items(), weights)
    trainings = [Training(name, arch, start, seed) for seed, (name, arch), start in wanted]
    return finetune_each(supernet, config, out, trainings, **options)


def finetune_each(
    supernet: str | os.PathLike[str],
    config: str,
    out: str | Path,
    trainings: Sequence[Training],
    *,
    framework: str | None = None,
    data_root: Path | None = None,
    classes: Sequence[str] | None = None,
    options: Sequence[str] = (),
    iterations: int | None = None,
    resume: bool = False,
    done: Callable[[Finetuned], None] = lambda finetuned: None,
) -> Comparison:
    """Fine-tune networks of a supernet by one config.

    Args:
        supernet: the supernet's file, or "shipped" for the one that comes with the package.
        config: config name or path of a detector or segmenter.
        out: output folder: a folder for each training, and ``comparison.json``.
        trainings: what is trained; a network that comes twice with the same weights and seed is trained once.
        framework: the framework; None picks one, see :func:`find_framework`.
        data_root: folder of the data sets; None leaves the config's.
        classes: the classes of objects; None leaves them to the config and the annotations.
        options: ``KEY=VALUE`` changes of the config.
        iterations: length of every training, its schedule in proportion; None leaves the config's.
        resume: go on with what an earlier call left in ``out``; its other networks stay in ``comparison.json``.
        done: called with every training that is done, an earlier call's too.

    Raises:
        UserError: if anything that was given does not fit, such as an ``out`` of another comparison.
    """
    out = Path(out)
    loaded = load_supernet(supernet)
    chosen = find_framework(framework, config, None)
    opened = chosen.open(config, options, data_root, classes)
    loaded.info.input_format.require(opened.input_format, f"the config {config}, by its {chosen.input_keys},")
    settings = {
        "supernet": {"name": Path(supernet).name, "sha256": file_hash(named_supernet(supernet))},
        "config": config,
        "framework": chosen.name,
        "data_root": None if data_root is None else str(data_root),
        "classes": None if classes is None else list(classes),
        "options": list(options),
        "iterations": iterations,
        "versions": installed_versions([*chosen.distributions, "torch"]),
    }
    networks = _Networks(loaded, opened)

    def train(training: Training, folder: Path) -> None:
        path = folder / chosen.configs.file_name(config)
        networks.write(training, path, iterations)
        run_finetune(
            str(path),
            folder,
            chosen.task,
            framework=chosen.name,
            data_root=data_root,
            options=[f"{chosen.seed_key}={training.seed}"],
            resume=(folder / LAST_CHECKPOINT).is_file(),
        )

    return train_each(out, settings, MAIN_METRIC[chosen.task], trainings, train, resume, done)


def write_network(
    supernet: str | os.PathLike[str],
    config: str,
    out: str | Path,
    arch: str,
    task: Task,
    *,
    framework: str | None = None,
    data_root: Path | None = None,
    classes: Sequence[str] | None = None,
    options: Sequence[str] = (),
) -> Path:
    """Write a config with one network of a supernet as its backbone, and beside it the network's weights.

    Args:
        supernet: the supernet's file, or "shipped" for the one that comes with the package.
        config: config name or path of a detector or segmenter.
        out: folder of both.
        arch: the network, see :func:`named_networks`.
        task: what the config's model is for.
        framework: the framework; None picks one, see :func:`find_framework`.
        data_root: folder of the data sets; None leaves the config's.
        classes: the classes of objects; None leaves them to the config and the annotations.
        options: ``KEY=VALUE`` changes of the config.

    Returns:
        The config's path.

    Raises:
        UserError: if anything that was given does not fit.
    """
    loaded = load_supernet(supernet)
    chosen = find_framework(framework, config, task)
    opened = chosen.open(config, options, data_root, classes)
    loaded.info.input_format.require(opened.input_format, f"the config {config}, by its {chosen.input_keys},")
    (network,) = named_networks([arch], loaded.info.space)
    path = Path(out) / chosen.configs.file_name(config)
    _Networks(loaded, opened).write(Training(arch, network, "supernet", seed=0), path, None)
    return path


class _Networks:
    """Networks of a supernet for a config, with batch-norm statistics of its images.

    Args:
        supernet: the supernet.
        opened: the config.
    """

    def __init__(self, supernet: Supernet, opened: FrameworkConfig) -> None:
        self._opened = opened
        images = opened.images()  # before anything is written, since they may be missing
        self._batches = draw_batches(images, STATISTICS_IMAGES if len(images) > STATISTICS_IMAGES else None, 16, seed=0)
        self._searcher = Searcher(supernet.at(pick_device("auto"), **opened.resolution.options()), opened.taps)

    def write(self, training: Training, path: Path, iterations: int | None) -> None:
        """Write the weights that a training starts from, and its config."""
        arch = training.arch
        random = training.weights == "random"
        network = random_start(arch, training.seed) if random else self._searcher.extract([arch], self._batches)[0]
        save_backbone(path.parent, network)
        self._opened.write(arch, (path.parent / PTH_FILE).resolve(), path, iterations)


def train_each(
    out: Path,
    settings: Mapping[str, Any],
    metric: str,
    trainings: Sequence[Training],
    train: Callable[[Training, Path], None],
    resume: bool,
    done: Callable[[Finetuned], None],
) -> Comparison:
    """Do all trainings that are not done yet, one after the other.

    Args:
        out: output folder: a folder for each training, and ``comparison.json``.
        settings: what all have in common, JSON values.
        metric: the one that counts.
        trainings: what is trained; what comes twice is trained once.
        train: does a training in a folder, where it may find what an earlier one left, and writes ``metrics.json``.
        resume: go on with what an earlier call left in ``out``.
        done: called with every training that is done, an earlier call's too.

    Raises:
        UserError: if ``out`` holds something else.
    """
    _open_folder(out, settings, resume)
    comparison = Comparison(settings, metric, [])
    earlier = read_finetuned(out)
    for training in trainings:
        folder = out / str(training.arch) / training.weights / f"seed_{training.seed}"
        if not (folder / METRICS).is_file():
            train(training, folder)
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        comparison.finetuned.append(Finetuned(**vars(training), metrics=metrics))
        trained = {each.training for each in comparison.finetuned}
        others = [each for each in earlier if each.training not in trained]
        _write(out, replace(comparison, finetuned=[*others, *comparison.finetuned]))
        done(comparison.finetuned[-1])
    return comparison


def _open_folder(out: Path, settings: Mapping[str, Any], resume: bool) -> None:
    """Make the output folder, or check that what it holds goes on."""
    path = out / COMPARISON
    if out.is_file():
        raise UserError(f"the output {out} is a file; expected a folder that may be made")
    if out.is_dir() and any(out.iterdir()):
        if not resume:
            raise UserError(f"the output folder {out} is not empty; add --resume to go on with it, or name another")
        if not path.is_file():
            raise UserError(f"{out} holds no comparison to go on with; start one without --resume in another folder")
        before = json.loads(path.read_text(encoding="utf-8"))["settings"]
        changed = [name for name in settings if before.get(name) != settings[name]]
        if changed:
            name = changed[0]
            raise UserError(
                f"{out} holds a comparison with other settings: {name} was {before.get(name)!r} and is "
                f"{settings[name]!r}; name another folder"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    _write(out, Comparison(settings, "", []))


def read_finetuned(out: Path) -> list[Finetuned]:
    """What a comparison has trained so far, in the order in which it was asked for."""
    return [Finetuned.from_json(row) for row in json.loads((out / COMPARISON).read_text("utf-8"))["finetuned"]]


def _write(out: Path, comparison: Comparison) -> None:
    text = json.dumps(comparison.to_json(), indent=1) + "\n"
    write_whole(out / COMPARISON, lambda path: path.write_text(text, encoding="utf-8"))
