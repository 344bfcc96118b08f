"""What a search is about to do, and about how long that takes here, before it begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_plugin.features.prefix_tree import tree_flops, tree_order
from data_plugin.images.batch import ImageBatch, ImageBatches, ImageSource, LoadedImage
from data_plugin.search.searcher import Searcher
from data_plugin.search.taps import EMBEDDING, stage_of
from data_plugin.space import cost
from data_plugin.space.arch import EXPANSION, Arch
from data_plugin.space.cost import STRIDES
from data_plugin.utils.ranks import rank_count

LONG = 3600
"""Seconds above which a plan says how a search gets shorter."""

WARM_UP = 5.0
"""Seconds below which they are measured twice, since the first use of everything takes longer."""

TIMED = 4
"""Networks that are measured on one batch to tell the time of all."""


@dataclass(frozen=True)
class SearchPlan:
    """A search that is ready to begin; as text it is what a user should know before waiting for it.

    Args:
        framework: what the framework's authors call it.
        config: the config's name or path.
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

    framework: str
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
            "config": f"{self.config}, {self.framework}",
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
        return "; fewer --image-count, --samples or budgets take less" if self.seconds > LONG else ""


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

    Every process that takes part has to call it.

    Args:
        searcher: what measures.
        batches: the images.
        archs: the networks of the search or, where it finds them on the way, some like them.
        networks: how many it compares at the most.
        strides: strides of the four stages.
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
    held = ImageBatches(_Held(batch), [range(len(batch.names))])
    computing = _seconds(lambda: searcher.measure(few, held))
    if computing < WARM_UP:
        computing = _seconds(lambda: searcher.measure(few, held))
    computing /= work(few, largest, searcher.taps, size, strides, searcher.rows)
    share = -(-len(batches) // rank_count()) / len(batches)  # of the batches, that one process has
    return total, share * (total * computing + images * reading) / len(batch.names)


def _seconds(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


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
