"""How much memory a search takes, foreseen without computing, and how many images at once stay within a bound."""

from __future__ import annotations

import copy
import re
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.backbones.sliced import SlicedBatchNorm2d
from data_plugin.features.networks import Networks
from data_plugin.features.prefix_tree import tree_order
from data_plugin.images.batch import ImageBatch
from data_plugin.search.comparison import Comparison
from data_plugin.search.distances.relation import tile_on
from data_plugin.search.taps import EMBEDDING, stage_of
from data_plugin.space.arch import STAGES, Arch
from data_plugin.space.budget import QUANTITIES
from data_plugin.space.search_space import SearchSpace
from data_plugin.utils.errors import UserError
from data_plugin.utils.ranks import local_rank_count

FREE_PART = 0.7
"""Part of the free memory that a search takes at the most if it is not told otherwise."""


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device, shared evenly with the other processes of this job that compute on it."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free, sharing = (
            torch.cuda.mem_get_info(device)[0] + reserved,
            -(-local_rank_count() // torch.cuda.device_count()),
        )
    else:
        free, sharing = psutil.virtual_memory().available, local_rank_count()
    return free // sharing


def parse_bytes(text: str) -> int:
    """Bytes from a text such as ``4GB`` or ``500MB``, in powers of 1024.

    Raises:
        UserError: if the text has another form or is below one byte.
    """
    units = QUANTITIES["memory"]
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text.strip())
    count = float(match[1]) * units[match[2]] if match and match[2] in units else 0.0
    if count < 1:
        raise UserError(f"{text!r} is not an amount of memory; expected a number and one of {', '.join(units)}, as 4GB")
    return int(count)


@dataclass(frozen=True)
class Walk:
    """The walk of a search over images, foreseen on shapes alone.

    Args:
        query: branch of the students.
        key: branch of the teacher.
        taps: the feature maps that are compared.
        rows: rows of the relation that are drawn per image and tap; None takes all.
    """

    query: DynamicResNet
    key: DynamicResNet
    taps: Sequence[str]
    rows: int | None = None

    def peak(self, images: int, size: tuple[int, int], compared: bool = True) -> int:
        """Bytes at the peak, the weights' among them, for so many images of a height and width in pixels.

        Args:
            images: how many.
            size: height and width in pixels.
            compared: whether they are compared, or only walked over.
        """
        key = (images, size, compared)
        if key not in self._peaks:
            comparison = self._comparison if compared else replace(self._comparison, taps=())
            pixels = torch.empty(images, 3, *size, device="meta")
            batch = ImageBatch(pixels, [size] * images, [str(i) for i in range(images)])
            weights = [tensor for branch in self._branches for tensor in _tensors(branch)]
            with torch.inference_mode(), _Allocated([*weights, pixels]) as allocated:
                comparison.compare(batch, comparison.targets(batch), self._widest, lambda *_: None)
            self._peaks[key] = allocated.peak
        return self._peaks[key]

    @cached_property
    def _peaks(self) -> dict[Any, int]:
        return {}

    @cached_property
    def _branches(self) -> tuple[DynamicResNet, DynamicResNet]:
        return _without_data(self.query), _without_data(self.key)

    @cached_property
    def _widest(self) -> list[Arch]:
        """Networks whose walk holds as much as that of any networks."""
        return tree_order(list(_widest(self.query.space)))

    @cached_property
    def _comparison(self) -> Comparison:
        """A comparison that computes nothing."""
        last_stage = max(stage_of(tap) for tap in self.taps)
        query, key = self._branches
        students, teacher = (Networks(branch, last_stage, norm="running") for branch in (query, key))
        tile = tile_on(next(self.query.parameters()).device)
        maps = [tap for tap in self.taps if tap != EMBEDDING]  # an embedding takes next to nothing
        return Comparison(teacher, students, maps, rows=self.rows, tile=tile)


@dataclass(frozen=True)
class Bound:
    """A bound on what a search holds in tensors on its device, kept by comparing few enough images at once.

    Args:
        bytes: the bound.
        given: whether the user gave it; else it is what is free on this machine, and no result may depend on it.
        walk: what the search does with images.
        held: bytes that are held all the time besides the weights, such as batch-norm statistics.
    """

    bytes: int
    given: bool
    walk: Walk
    held: int = 0

    def parts(self, batch: ImageBatch, compared: bool = True, changes_statistics: bool = False) -> list[ImageBatch]:
        """The batch in the fewest parts of about equal size that stay within the bound.

        Args:
            batch: the images.
            compared: whether they are compared, or only walked over.
            changes_statistics: whether the parts have other batch-norm statistics than the batch.

        Raises:
            UserError: if a single image exceeds the bound, or a batch what is free here and parts would change the
                result.
        """
        height, width = batch.images.shape[-2:]
        count = len(batch.names)
        for pieces in range(1, count + 1):
            most = -(-count // pieces)
            # Whatever fits at the next powers of two fits, which saves foreseeing every size of a data set.
            roughly = (1 << (height - 1).bit_length(), 1 << (width - 1).bit_length())
            if any(self.foreseen(most, size, compared) <= self.bytes for size in (roughly, (height, width))):
                return [part_of(batch, start, start + most) for start in range(0, count, most)]
            if changes_statistics and not self.given:
                needed = self.foreseen(count, (height, width), compared)
                raise UserError(
                    f"a batch of {count} images of {height}x{width} needs {_amount(needed)}, and "
                    f"{_amount(self.bytes)} are free; lower --batch-size, or give --max-memory to compare batches in "
                    "parts, each with batch-norm statistics of its own"
                )
        needed = self.foreseen(1, (height, width), compared)
        raise UserError(
            f"one image of {height}x{width} needs {_amount(needed)}, more than the bound of "
            f"{_amount(self.bytes)}; raise --max-memory, or make the images of the config smaller"
        )

    def foreseen(self, images: int, size: tuple[int, int], compared: bool = True) -> int:
        """Bytes at the peak for so many images of a height and width in pixels.

        Library workspaces are not in it, nor what the process holds beside tensors.
        """
        return self.held + self.walk.peak(images, size, compared)


def _amount(count: int) -> str:
    return f"{count / 2**30:.2f} GB" if count >= 2**30 else f"{count / 2**20:.2f} MB"


def part_of(batch: ImageBatch, first: int, end: int) -> ImageBatch:
    """Some of the images of a batch, padded as they were."""
    return ImageBatch(batch.images[first:end], batch.sizes[first:end], batch.names[first:end])


def _widest(space: SearchSpace) -> Iterator[Arch]:
    """Networks whose walk holds as much at once as that of all networks.

    The widest ones hold most. In each stage a walk holds the input, the output at an earlier depth and one block, so
    three blocks show all that deeper networks hold.
    """
    depth = [min(3, choices[-1]) for choices in space.depth]
    shallower = [[*depth[:stage], 1, *depth[stage + 1 :]] for stage in range(STAGES) if len(space.depth[stage]) > 1]
    for each in (depth, *shallower):
        yield Arch.from_row([*space.largest.row[:-STAGES], *each])


def _without_data(network: DynamicResNet) -> DynamicResNet:
    """A copy on the meta device, which has shapes only."""
    memo = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in _tensors(network)}
    copied = copy.deepcopy(network, memo)
    for module in copied.modules():
        if isinstance(module, SlicedBatchNorm2d):
            # Takes the same memory; batch norm itself is slow on the meta device.
            module.forward = torch.empty_like  # type: ignore[method-assign, assignment]
    return copied


def _tensors(network: DynamicResNet) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


class _Allocated(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive at once, of those that were there before and of new ones."""

    def __init__(self, before: Sequence[Tensor]) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self.alive: set[int] = set()
        for tensor in before:
            self._count(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if id(storage) not in self.alive:
            self.alive.add(id(storage))
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, id(storage), storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self.alive.remove(key)
        self.now -= size
