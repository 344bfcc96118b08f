"""What a search is about to do, and about how long that takes here, before it begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data_plugin.features.prefix_tree import tree_flops, tree_order
from data_plugin.images.batch import ImageBatch, ImageBatches, ImageSource, LoadedImage
from data_plugin.search.searcher import Searcher
from data_plugin.search.taps import EMBEDDING, stage_of
from data_plugin.space import cost
from data_plugin.space.arch import EXPANSION, Arch
from data_plugin.space.cost import STRIDES
from data_plugin.utils.progress import progress_over
from data_plugin.utils.ranks import from_first, rank_count

LONG = 3600
"""Seconds above which a plan says how a search gets shorter."""

TIMED = 4
"""Networks that are measured on one batch, or a part of its images, to tell the time of all."""

PATIENCE = 5.0
"""Seconds that measuring them may take, as it is foreseen from smaller parts of the images."""

SMALLEST = 192
"""Pixels of the shorter side of a part that is no longer halved."""


@dataclass(frozen=True)
class SearchPlan:
    """A search that is ready to begin; as text it is what a user should know before waiting for it.

    Args:
        model: what the backbone is for, such as a framework's name.
        config: the config's name or path, or where the images are that are classified.
        supernet: which supernet, and what it was trained on, in words.
        teacher: what its teacher knows of the images, in words.
        data: where the images are, in words.
        lacking: what fine-tuning will ask for and is not there, a sentence each.
        images: how many are looked at.
        of: how many there are.
        taps: the feature maps that are compared.
        budgets: by name, how many networks within each are compared; None where they are found on the way.
        latency: where latencies are from, in words; None where no budget bounds them.
        networks: how many are compared at the most.
        rivals: how many more, to see beside the winners.
        flops: multiply-accumulates of all networks on all images, at the most: of the convolutions, each distinct
            prefix once, and of the relations.
        seconds: how long that takes on this device, by the time of one batch.
        device: what computes.
        out: the output folder.
    """

    model: str
    config: str
    supernet: str
    teacher: str
    data: str
    lacking: Sequence[str]
    images: int
    of: int
    taps: Sequence[str]
    budgets: Mapping[str, int | None]
    latency: str | None
    networks: int
    rivals: int
    flops: float
    seconds: float
    device: str
    out: Path

    def __str__(self) -> str:
        budgets = (name if count is None else f"{name} ({count})" for name, count in self.budgets.items())
        networks = f"{self.networks} at the most and {self.rivals} rivals"
        lines = {
            "config": f"{self.config}, {self.model}",
            "supernet": self.supernet,
            "teacher": self.teacher,
            "images": f"{self.images} of {self.of}, {self.data}",
            **({"lacking": f"for fine-tuning: {'; '.join(self.lacking)}"} if self.lacking else {}),
            "taps": ", ".join(self.taps),
            "budgets": ", ".join(budgets),
            **({} if self.latency is None else {"latency": self.latency}),
            "networks": f"{networks}, {_amount(self.flops)} multiply-accumulates",
            "time": f"about {_duration(self.seconds)} on {self.device}{self._hint}",
            "output": str(self.out),
        }
        width = max(map(len, lines))
        return "\n".join(f"{name:<{width}}  {text}" for name, text in lines.items())

    @property
    def _hint(self) -> str:
        return "; fewer --image-count, --samples, budgets or --relation-rows take less" if self.seconds > LONG else ""


def work(
    archs: Sequence[Arch],
    largest: Arch,
    taps: Sequence[str],
    size: tuple[int, int],
    strides: Sequence[int] = STRIDES,
    rows: int | None = None,
) -> int:
    """Multiply-accumulates of comparing networks with their teacher on one image.

    Args:
        archs: the networks.
        largest: the teacher's architecture.
        taps: what is compared.
        size: height and width of the image in pixels.
        strides: strides of the four stages.
        rows: rows of a relation that are drawn; None takes all.
    """
    last_stage = max(map(stage_of, taps))
    total = tree_flops(tree_order(archs), size, last_stage, strides) + cost.flops(largest, size, strides)
    table = np.array([arch.row for arch in archs])
    for tap in taps:
        if tap == EMBEDDING:
            continue
        stage = stage_of(tap)
        stride = 4 * int(np.prod(strides[: stage + 1]))
        positions = -(-size[0] // stride) * -(-size[1] // stride)
        decides = [0, *range(1, 2 + stage), *range(5, 6 + stage)]
        widths = np.unique(table[:, decides], axis=0)[:, 1 + stage]
        channels = EXPANSION * (int(widths.sum()) + len(widths) * largest.width[stage])
        total += channels * positions * min(positions, rows or positions)
    return total


def foresee(
    searcher: Searcher, batches: ImageBatches, archs: Sequence[Arch], networks: int, strides: Sequence[int]
) -> tuple[float, float]:
    """Multiply-accumulates of a search, and the seconds that they take here, as if all images were like the first.

    A few networks are measured on ever larger parts of the first batch's images, up to the whole ones or for as long as
    :data:`PATIENCE` allows; the time of one multiply-accumulate on the last of them stands for all. Every process that
    takes part has to call it.

    Args:
        searcher: what measures.
        batches: the images.
        archs: the networks of the search or, where it finds them on the way, some like them.
        networks: how many it compares at the most.
        strides: strides of the four stages.

    Raises:
        UserError: if a batch, or a single image, needs more memory than a search may take.
    """
    read: list[ImageBatch] = []
    reading = _seconds(lambda: read.extend(batches.only([0])))
    [batch] = read
    size = (batch.images.shape[-2], batch.images.shape[-1])
    largest = searcher.supernet.key.space.largest
    images = sum(map(len, batches.parts))
    total = images * work(archs, largest, searcher.taps, size, strides, searcher.rows) * networks / len(archs)
    if searcher.norm == "recalibrated":
        seen, last_stage = min(images, searcher.calibration_images), max(map(stage_of, searcher.taps))
        total += seen * tree_flops(tree_order(archs), size, last_stage, strides) * networks / len(archs)
    few = [archs[index] for index in np.linspace(0, len(archs) - 1, min(TIMED, len(archs))).astype(int)]
    # Large images may be timed in part alone, so whether a whole batch fits is asked for.
    searcher.bound(held=0).parts(batch, changes_statistics=searcher.norm == "batch")
    computing = 0.0
    sizes = _parts(size)
    searcher.measure(few, _held(batch, sizes[0]))  # the first use of everything takes longer
    with progress_over(len(sizes), "parts of images timed to foresee the search") as advance:
        for part in sizes:
            needed = work(few, largest, searcher.taps, part, strides, searcher.rows)
            if needed * computing <= PATIENCE:
                measure = partial(searcher.measure, few, _held(batch, part))
                computing = from_first(_seconds(measure)) / needed  # of the first, so that all do alike
            advance(1)
    share = -(-len(batches) // rank_count()) / len(batches)  # of the batches, that one process has
    return total, share * (total * computing + images * reading) / len(batch.names)


def _seconds(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def _parts(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Heights and widths from a small part of an image to all of it, each about twice those before."""
    sizes = [size]
    while min(sizes[0]) > SMALLEST:
        sizes.insert(0, (-(-sizes[0][0] // 2), -(-sizes[0][1] // 2)))
    return sizes


def _held(batch: ImageBatch, size: tuple[int, int]) -> ImageBatches:
    """The upper left part of a batch's images, or all of them, in memory."""
    height, width = size
    sizes = [(min(each[0], height), min(each[1], width)) for each in batch.sizes]
    part = ImageBatch(batch.images[..., :height, :width], sizes, batch.names)
    return ImageBatches(_Held(part), [range(len(part.names))])


class _Held(ImageSource):
    """The images of a batch, in memory."""

    def __init__(self, batch: ImageBatch) -> None:
        super().__init__(batch.names)
        self._batch = batch

    def __getitem__(self, index: int) -> LoadedImage:
        return LoadedImage(self._batch.images[index], self._batch.sizes[index])


def _amount(count: float) -> str:
    unit, scale = next((u, s) for u, s in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 0.0)) if count >= s)
    return f"{count / (scale or 1e6):.3g} {unit}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"
