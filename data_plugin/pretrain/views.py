"""Views of images for self-supervised training, each a function of seed, epoch and image and of nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from data_plugin.backbones.grouped import Path
from data_plugin.images.image_files import Images

Transform = Callable[[Image.Image], Sequence[Tensor]]
"""Makes the views of an image, or what views are made of, each (3, H, W), with the global random generators."""


LocatedTransform = Callable[[Image.Image], Sequence[tuple[Tensor, Tensor]]]
"""The same, each with its place (2, 3): the affine map that takes a position in the view to the one in the image, both
from -1 to 1 as in ``torch.nn.functional.affine_grid``."""


class Draw(NamedTuple):
    """An image in an epoch: what decides its views, together with the seed."""

    epoch: int
    image: int


class Clean(NamedTuple):
    """What a frozen teacher sees of some images, and where the views lie in it.

    Args:
        images: the whole images as they are, (N, 3, S, S) in bytes, stretched to a square.
        indices: which images of the source they are, (N,).
        places: per view, where it lies (N, 2, 3), see :data:`LocatedTransform`.
    """

    images: Tensor
    indices: Tensor
    places: list[Tensor]

    def of(self, rows: Sequence[int]) -> Clean:
        """Those of some of the images."""
        rows = list(rows)
        return Clean(self.images[rows], self.indices[rows], [place[rows] for place in self.places])


class Batch(NamedTuple):
    """Views of some images.

    Args:
        views: per view of an image, a tensor (N, 3, H, W).
        unreadable: names of images that could not be read, in whose place the next readable ones stand.
        clean: the images themselves, for a method with a frozen teacher.
        paths: of each image the path of the sub-net that it trains; None where there is one network.
    """

    views: list[Tensor]
    unreadable: list[str]
    clean: Clean | None = None
    paths: list[Path] | None = None

    def parts(self) -> Iterator[tuple[Batch, tuple[Path, ...]]]:
        """The images of each sub-net, and its path, alone in a tuple; where there is one network, all and ``()``."""
        if self.paths is None:
            yield self, ()
            return
        for path in dict.fromkeys(self.paths):
            rows = [row for row, other in enumerate(self.paths) if other == path]
            yield (
                self._replace(
                    views=[view[rows] for view in self.views],
                    clean=None if self.clean is None else self.clean.of(rows),
                    paths=[path] * len(rows),
                ),
                (path,),
            )


class Views(Dataset[tuple[Sequence[Tensor], list[str]]]):
    """The views of an image for every :class:`Draw`, and the names of the unreadable images passed over for it.

    Args:
        images: the images.
        transform: makes the views.
        seed: the same seed gives the same views, however many processes make them.
    """

    def __init__(self, images: Images, transform: Transform, seed: int) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed

    def __getitem__(self, draw: Draw) -> tuple[Sequence[Tensor], list[str]]:
        unreadable: list[str] = []
        for offset in range(len(self.images)):
            index = (draw.image + offset) % len(self.images)
            image = self.images.read(index)
            if image is not None:
                with _seeded(self.seed, *draw):
                    return self.sample(index, image), unreadable
            unreadable.append(self.images.names[index])
        return [], unreadable

    def sample(self, index: int, image: Image.Image) -> Sequence[Tensor]:
        """What the data set holds of one image, with the global random generators."""
        del index
        return self.transform(image)


class LocatedViews(Views):
    """Views with what a frozen teacher needs beside them.

    Args:
        images: the images.
        transform: makes the views.
        seed: see :class:`Views`.
        clean_size: height and width of the clean image.
    """

    def __init__(self, images: Images, transform: LocatedTransform, seed: int, clean_size: int) -> None:
        super().__init__(images, lambda image: [], seed)
        self.located = transform
        self.clean_size = clean_size

    def sample(self, index: int, image: Image.Image) -> Sequence[Tensor]:
        """The views, their places, the clean image and its index, for :func:`collate_located`."""
        views, places = zip(*self.located(image), strict=True)
        square = image.resize((self.clean_size, self.clean_size), Image.Resampling.BICUBIC, reducing_gap=2.0)
        clean = torch.from_numpy(np.array(square)).permute(2, 0, 1)
        return [*views, *places, clean, torch.tensor(index)]


def collate(samples: Sequence[tuple[Sequence[Tensor], list[str]]]) -> Batch:
    """Put samples of :class:`Views` together; without one readable image there are no views."""
    views, unreadable = zip(*samples, strict=True)
    return Batch([torch.stack(view) for view in zip(*views, strict=True)], list(itertools.chain(*unreadable)))


def collate_located(samples: Sequence[tuple[Sequence[Tensor], list[str]]]) -> Batch:
    """Put samples of :class:`LocatedViews` together; without one readable image there are no views."""
    stacked = collate(samples)
    if not stacked.views:
        return stacked
    *both, images, indices = stacked.views
    count = len(both) // 2
    return Batch(both[:count], stacked.unreadable, Clean(images, indices, both[count:]))


class EpochStream(Sampler[Draw]):
    """One process's part of every batch, epoch after epoch without a seam, from any position on.

    As in detectron2's ``TrainingSampler``, a batch may hold the end of one epoch and the start of the next. The
    position is all the state there is, so a training that was stopped goes on with the very image that was next. The
    batches do not depend on the number of processes: each takes consecutive images of every batch.

    Args:
        images: the images, which give the order of an epoch.
        total: number of draws in the whole training, by all processes.
        batch: draws of a batch, by all processes; a multiple of ``ranks``.
        start: draws that were made before.
        seed: the same seed gives the same order.
        rank: number of this process.
        ranks: number of processes.
    """

    def __init__(
        self, images: Images, total: int, batch: int, start: int = 0, seed: int = 0, rank: int = 0, ranks: int = 1
    ) -> None:
        self.images = images
        self.total = total
        self.batch = batch
        self.start = start
        self.seed = seed
        self.rank = rank
        self.ranks = ranks

    def __iter__(self) -> Iterator[Draw]:
        part = self.batch // self.ranks
        shuffled, order = -1, np.empty(0, dtype=np.int64)
        for batch in range(self.start, self.total, self.batch):
            for position in range(batch + self.rank * part, batch + (self.rank + 1) * part):
                epoch, place = divmod(position, len(self.images))
                if epoch != shuffled:
                    shuffled, order = epoch, self.images.order(np.random.default_rng((self.seed, epoch)))
                yield Draw(epoch, int(order[place]))

    def __len__(self) -> int:
        """Draws of this process in the whole training, those before ``start`` included, which the loop has counted."""
        return self.total // self.ranks


@contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """Within, the global CPU generators of torch and numpy depend on ``key`` only; after it they are as before."""
    torch_seed, numpy_seed = np.random.SeedSequence(key).generate_state(2)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    torch.default_generator.manual_seed(int(torch_seed))
    np.random.seed(int(numpy_seed))
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
