"""Views of images in batches of few codes, so that every sub-net of a step sees a batch of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset, Sampler

from data_plugin.backbones.grouped import Path
from data_plugin.images.image_files import Images
from data_plugin.pretrain.phases import Phases
from data_plugin.pretrain.views import Batch, Draw, Views


class CodedDraw(NamedTuple):
    """A draw, and the path of the sub-net that it trains."""

    draw: Draw
    path: Path


class CodedViews(Dataset[tuple[Any, Path]]):
    """What a data set of views has for the draw of a :class:`CodedDraw`, and its path.

    In the place of an image that cannot be read stands the next one of the source, whatever its code.

    Args:
        views: the views.
    """

    def __init__(self, views: Views) -> None:
        self.views = views

    def __getitem__(self, coded: CodedDraw) -> tuple[Any, Path]:
        return self.views[coded.draw], coded.path


def collate_coded(collate: Callable[[Sequence[Any]], Batch]) -> Callable[[Sequence[tuple[Any, Path]]], Batch]:
    """What puts samples of :class:`CodedViews` together, of what does so with those of its views."""
    return partial(_collate, collate)


def _collate(collate: Callable[[Sequence[Any]], Batch], samples: Sequence[tuple[Any, Path]]) -> Batch:
    views, paths = zip(*samples, strict=True)
    return collate(views)._replace(paths=list(paths))


class CodeStream(Sampler[CodedDraw]):
    """One process's part of every batch, each of a few parts of equal size whose images have one code.

    In every phase the images of a code are gone through epoch after epoch without a seam and cut into parts, so all
    images are seen equally often. The parts that begin in an epoch are dealt evenly over it: among as many parts as
    there are codes each code comes about once. The position is all the state there is, as in
    :class:`~data_plugin.pretrain.views.EpochStream`, and in phase 0 the draws are those of that.

    The batches do not depend on the number of processes: each takes an equal share of each part.

    Args:
        images: the images, which give the order of an epoch.
        codes: their codes (N, levels), -1 in the rows of images that have none.
        phases: when how many digits count.
        steps: steps of the whole training.
        step: draws of a step, by all processes.
        batch: draws of a batch, which may be a part of a step; a multiple of ``parts * ranks``.
        parts: parts of a batch.
        start: draws that were made before; a multiple of ``step``.
        seed: the same seed gives the same order.
        rank: number of this process.
        ranks: number of processes.
    """

    def __init__(
        self,
        images: Images,
        codes: np.ndarray,
        phases: Phases,
        steps: int,
        step: int,
        batch: int,
        parts: int,
        start: int = 0,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.images = images
        self.codes = codes
        self.phases = phases
        self.steps = steps
        self.step = step
        self.size = batch // parts
        self.start = start
        self.seed = seed
        self.rank = rank
        self.ranks = ranks

    def __iter__(self) -> Iterator[CodedDraw]:
        share = self.size // self.ranks
        epoch = 0
        for phase, span in enumerate(self.phases.spans(self.steps)):
            begin, end = (self.step * step for step in span)
            numbers = self.phases.numbers(self.codes, phase)
            if end > self.start:
                first = max(0, self.start - begin) // self.size
                dealt = itertools.islice(self._parts(numbers, epoch, first), (end - begin) // self.size - first)
                for number, draws in dealt:
                    path = self.phases.path(number, phase)
                    mine = draws[self.rank * share : (self.rank + 1) * share]
                    yield from (CodedDraw(draw, path) for draw in mine)
            # A part may end in the epoch after that which it began in.
            epoch += 2 + (end - begin) // np.count_nonzero(numbers >= 0)

    def __len__(self) -> int:
        """Draws of this process in the whole training, those before ``start`` included, which the loop has counted."""
        return self.steps * self.step // self.ranks

    def _parts(self, numbers: np.ndarray, first_epoch: int, first: int) -> Iterator[tuple[int, list[Draw]]]:
        """Parts without end, each the number of its sub-net and its draws, from the one with number ``first`` on.

        Args:
            numbers: the sub-net of each image, -1 for none.
            first_epoch: what the first epoch counts as.
            first: parts that were dealt before.
        """
        counts = np.bincount(numbers[numbers >= 0])
        starts = np.cumsum([0, *counts])
        passed = 0
        for epoch in itertools.count():
            # Of each sub-net, the parts that begin in this epoch: those from one number to another.
            begin, end = (-(-each * counts // self.size) for each in (epoch, epoch + 1))
            dealt = int((end - begin).sum())
            if passed + dealt > first:
                orders = [self._by_number(numbers, first_epoch + each) for each in (epoch, epoch + 1)]
                for number, part in self._dealt(begin, end, first_epoch + epoch)[max(0, first - passed) :]:
                    position = part * self.size + np.arange(self.size)
                    later, place = np.divmod(position, counts[number])
                    yield (
                        number,
                        [
                            Draw(first_epoch + each, int(orders[each - epoch][starts[number] + at]))
                            for each, at in zip(later.tolist(), place.tolist(), strict=True)
                        ],
                    )
            passed += dealt

    def _by_number(self, numbers: np.ndarray, epoch: int) -> np.ndarray:
        """The images that take part in the order of an epoch, those of each sub-net together."""
        order = self.images.order(np.random.default_rng((self.seed, epoch)))
        order = order[numbers[order] >= 0]
        return order[np.argsort(numbers[order], kind="stable")]

    def _dealt(self, begin: np.ndarray, end: np.ndarray, epoch: int) -> list[tuple[int, int]]:
        """The parts of an epoch as (sub-net, part), each sub-net's spread evenly and in their order."""
        generator = np.random.default_rng((self.seed, epoch, 1))
        parts = [(number, part) for number in range(len(begin)) for part in range(begin[number], end[number])]
        times = [(part - begin[number] + generator.random()) / (end[number] - begin[number]) for number, part in parts]
        return [parts[place] for place in np.argsort(times, kind="stable")]
