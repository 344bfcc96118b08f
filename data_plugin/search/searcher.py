"""Search: which networks of a supernet keep most of its knowledge on given images (DATA, Eq. 3 to 5)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.extract import extract
from data_plugin.features.networks import NORM_POLICIES, PRECISIONS, Networks
from data_plugin.features.norm_statistics import NormStatistics, statistics_bytes
from data_plugin.features.prefix_tree import prefix, tree_order
from data_plugin.images.batch import ImageBatch, ImageBatches
from data_plugin.search.comparison import REDUCTIONS, Comparison, Reduction, Target, own_means, own_sizes
from data_plugin.search.distances.embedding import Embedder, trained_heads
from data_plugin.search.distances.relation import TEMPERATURE
from data_plugin.search.external_teacher import ExternalTeacher, require_taps
from data_plugin.search.known import Asked, Known
from data_plugin.search.memory import FREE_PART, Bound, Walk, free_memory, part_of
from data_plugin.search.result import SearchResult, TapResult
from data_plugin.search.resume import BatchResult, PartialSearch
from data_plugin.search.taps import EMBEDDING, check_taps, stage_of
from data_plugin.space.arch import STAGES, Arch
from data_plugin.supernet.checkpoint import Supernet
from data_plugin.utils.errors import UserError
from data_plugin.utils.ranks import from_all, from_first, rank, rank_count

CALIBRATION_IMAGES = 64
"""Images from which ``recalibrated`` takes its statistics if not told otherwise."""

KEPT_PART = 0.25
"""Part of the memory bound that images and teachers take at the most while a search comes back to them."""


def _ignored(networks: float) -> None:
    """Progress that nobody watches."""


class Searcher:
    """Measures how far networks of a supernet are from its teacher.

    The teacher is the key branch at its largest, the students are subnets of the query branch. The teacher runs once a
    batch; the students are walked as a prefix tree, and each distinct feature map is compared once. Where several
    processes work together (:mod:`data_plugin.utils.ranks`), each measures some of the batches, and all have the same
    result.

    Args:
        supernet: the supernet, on the device to compute on; put into evaluation mode.
        taps: the feature maps to compare, C2 to C5 (Eq. 5), or ``z``, the embeddings of the pre-training (Eq. 3).
        temperature: of the relation softmax.
        reduction: what becomes of the positions of a map: their "mean", as the authors' release has it, so that every
            tap counts alike; or their "sum", as Eq. 5 is printed, where the largest map decides alone.
        norm: what batch norms normalise with, one of :data:`NORM_POLICIES`; padding is excluded from the distances, not
            from batch statistics.
        calibration_images: images, at least, from which ``recalibrated`` takes its statistics, where there are as many.
        precision: of the features, one of :data:`PRECISIONS`; relations and distances are in float32 or wider.
        rows: draw so many rows of the relation per image and tap, at least 2, the same for all networks; None takes
            all.
        seed: seed of that draw.
        max_memory: bytes of tensors that may be held at once on the device; a batch that needs more is compared in
            parts, which under ``batch`` have statistics of their own. None takes :data:`~.memory.FREE_PART` of what is
            free, and refuses to split a batch where that would change the result.
        teacher: a frozen network of any kind in the place of the supernet's largest, for the taps C4 and C5.

    Raises:
        UserError: if a tap, policy, precision or reduction is unknown, there are too few rows, or the supernet does not
            have what the tap ``z`` needs.
    """

    def __init__(
        self,
        supernet: Supernet,
        taps: Sequence[str],
        *,
        temperature: float = TEMPERATURE,
        reduction: Reduction = "mean",
        norm: str = "batch",
        calibration_images: int = CALIBRATION_IMAGES,
        precision: str = "float32",
        rows: int | None = None,
        seed: int = 0,
        max_memory: int | None = None,
        teacher: ExternalTeacher | None = None,
    ) -> None:
        self.taps = check_taps(taps)
        if teacher is not None:
            require_taps(self.taps)
        for name, value, known in (
            ("norm policy", norm, NORM_POLICIES),
            ("precision", precision, PRECISIONS),
            ("reduction", reduction, REDUCTIONS),
        ):
            if value not in known:
                raise UserError(f"the {name} is {value!r}; expected one of {', '.join(known)}")
        if rows is not None and rows < 2:
            raise UserError(f"{rows} rows of the relation were asked for; expected at least 2, or none to take all")
        if EMBEDDING in self.taps and rows is not None:
            raise UserError("the tap z compares embeddings, which have no rows to draw; leave the rows out")
        self.supernet = supernet
        self.temperature = temperature
        self.reduction = reduction
        self.norm = norm
        self.calibration_images = calibration_images
        self.precision = precision
        self.rows = rows
        self.seed = seed
        self.max_memory = max_memory
        self.teacher = teacher
        self._walks: dict[tuple[str, ...], Walk] = {}  # foreseen once, however often a bound is asked for
        for branch in (supernet.query, supernet.key):
            branch.eval()
        # The same for all processes, so that all split batches alike.
        self.free = int(FREE_PART * min(from_all(free_memory(self.device))))

    @property
    def device(self) -> torch.device:
        """Where the supernet is."""
        return next(self.supernet.query.parameters()).device

    def measure(self, archs: Sequence[Arch], batches: ImageBatches) -> SearchResult:
        """Measure networks on all batches; see :meth:`Measurement.measure`."""
        return self.on(batches).measure(archs)

    def on(
        self,
        batches: ImageBatches,
        unfinished: PartialSearch | None = None,
        progress: Callable[[float], None] = _ignored,
        comes_back: bool = False,
    ) -> Measurement:
        """Get ready to measure on some images, in one or in several calls.

        Args:
            batches: images as the task's framework feeds them.
            unfinished: keeps every finished batch, and tells which are finished already.
            progress: called with the number of networks, times batches, that were settled since the last call.
            comes_back: whether later calls come back to the same batches with other networks, for which images and
                teachers are kept as far as memory allows.

        Raises:
            UserError: if there is no image, or the file of the supernet does not have what the tap ``z`` needs.
        """
        if not len(batches):
            raise UserError("there is no image to search on; expected at least one")
        return Measurement(self, batches, unfinished, progress, comes_back)

    def extract(
        self, archs: Sequence[Arch], batches: ImageBatches, progress: Callable[[int], None] = lambda images: None
    ) -> list[DATAResNet]:
        """Networks with weights, and with batch-norm statistics of the images, which sharing weights left wrong.

        Args:
            archs: the networks; what they share is computed once, on the supernet's device.
            batches: the images.
            progress: called with a number of images when these are done.

        Returns:
            The networks in evaluation mode on the CPU, in the order given.
        """
        query = self.supernet.query
        bound = self.bound(statistics_bytes(query, tree_order(archs), STAGES - 1), last_tap="C5")

        def images() -> Iterator[Tensor]:
            for batch in batches:
                for part in bound.parts(batch, compared=False, changes_statistics=True):
                    yield part.images.to(self.device)
                progress(len(batch.names))

        statistics = NormStatistics(query)
        with torch.inference_mode():
            statistics.add(tree_order(archs), images())
        networks = [extract(query, arch).cpu() for arch in archs]
        for network in networks:
            statistics.write_to(network)
        return networks

    def require_room(self, batches: ImageBatches) -> None:
        """See, before anything is measured, that :meth:`extract` can take the statistics of a whole batch.

        What compares a batch in parts may change no distance and still change these.

        Args:
            batches: the images, of which the first batch is looked at.

        Raises:
            UserError: if it needs more than is free here.
        """
        largest = [self.supernet.query.space.largest]
        bound = self.bound(statistics_bytes(self.supernet.query, largest, STAGES - 1), last_tap="C5")
        for batch in batches.only([0]):
            bound.parts(batch, compared=False, changes_statistics=True)

    def bound(self, held: int, last_tap: str | None = None) -> Bound:
        """The memory bound of a search that holds so many bytes all the time.

        Args:
            held: bytes of batch-norm statistics.
            last_tap: the last map that is computed where it is not the last tap.
        """
        most = self.free if self.max_memory is None else self.max_memory
        given = self.max_memory is not None
        taps = self.taps if last_tap is None else (last_tap,)
        if taps not in self._walks:
            self._walks[taps] = Walk(self.supernet.query, self.supernet.key, taps, self.rows)
        return Bound(most, given, self._walks[taps], held)


@dataclass(frozen=True)
class _Batch:
    """A batch in the parts that it is compared in, with the teacher's side of each."""

    whole: ImageBatch
    parts: Sequence[tuple[ImageBatch, dict[int, Target]]]

    @property
    def bytes(self) -> int:
        """Bytes of the images, and of the teacher's side."""
        return self.whole.images.nbytes + sum(t.bytes for _, targets in self.parts for t in targets.values())


class Measurement:
    """Measures networks on fixed images; what one call has found, or made ready, the next ones build on.

    Args are those of :meth:`Searcher.on`, after the searcher.

    Attributes:
        count: number of batches.
    """

    def __init__(
        self,
        searcher: Searcher,
        batches: ImageBatches,
        unfinished: PartialSearch | None,
        progress: Callable[[float], None],
        comes_back: bool,
    ) -> None:
        self.searcher = searcher
        self.batches = batches
        self.count = len(batches)
        self.unfinished = unfinished
        self.progress = progress
        self.comes_back = comes_back
        supernet, last_stage = searcher.supernet, stage_of(searcher.taps[-1])
        self.students, self.teacher = (
            Networks(branch, last_stage, searcher.norm, PRECISIONS[searcher.precision])
            for branch in (supernet.query, supernet.key)
        )
        self.embedder = None
        if EMBEDDING in searcher.taps:
            self.embedder = Embedder(trained_heads(supernet).to(searcher.device), searcher.norm)
        self.comparison = Comparison(
            self.teacher,
            self.students,
            searcher.taps,
            searcher.temperature,
            searcher.reduction,
            searcher.rows,
            searcher.seed,
            embedder=self.embedder,
            external=searcher.teacher,
        )
        self.known = [Known(stage_of(tap)) for tap in searcher.taps]
        self.found: dict[int, BatchResult] = {}
        self.kept: dict[int, _Batch] = {}
        self.calibrated: set[Arch] = set()
        self.measurements = 0

    def measure(self, archs: Sequence[Arch], batches: Sequence[int] | None = None) -> SearchResult:
        """Measure how far each network is from the teacher.

        Args:
            archs: the networks.
            batches: numbers of the batches; None takes all.

        Returns:
            The divergences of the networks on the images of these batches, in their order.

        Raises:
            UserError: if there is no network, an image cannot be read, a single image needs more than the memory
                bound, or features overflow the precision.
        """
        if not archs:
            raise UserError("there is no network to search among; widen the budget")
        archs = tree_order(archs)
        wanted = range(self.count) if batches is None else batches
        rows = [known.rows_of(archs) for known in self.known]
        held = {b: np.array([k.holds(r, b) for k, r in zip(self.known, rows, strict=True)]) for b in wanted}
        new = [batch for batch in wanted if not held[batch].all()]
        if new:
            self._measure(archs, rows, new, np.all([held[batch] for batch in new], axis=0))
        return self._result(archs, rows, wanted)

    def skip(self, networks: float) -> None:
        """Tell the progress that so many networks, times batches, need not be measured."""
        self.progress(networks / rank_count())  # every process knows of all of them

    def _measure(self, archs: list[Arch], rows: list[np.ndarray], batches: list[int], known: np.ndarray) -> None:
        """Measure on some batches, this process a part of them, what is not ``known`` of networks, (taps, archs)."""
        needed = np.asarray(~known.all(axis=0))
        students = [arch for arch, is_needed in zip(archs, needed, strict=True) if is_needed]
        asked = Asked(students, known[:, needed], [of_tap[needed] for of_tap in rows])
        number = self.measurements
        self.measurements += 1
        before = from_first({} if self.unfinished is None else self.unfinished.read(number))
        self.skip(len(archs) * len(batches) - len(students) * (len(batches) - len(before)))
        todo = [batch for batch in batches if batch not in before][rank() :: rank_count()]
        measured: dict[int, BatchResult] = {}
        with torch.inference_mode():
            bound = self._calibrated(students)
            for index, batch in self._images(todo):
                measured[index] = self._on_batch(asked, index, batch, bound)
                if self.unfinished is not None:
                    self.unfinished.write(number, index, measured[index])
        every = {index: batch for parts in [before, *from_all(measured)] for index, batch in parts.items()}
        for index in batches:
            self.found[index] = replace(every[index], values=(), variance=())
            for tap, at_tap in enumerate(self.known):
                at_tap.fill(index, asked.maps[tap], every[index].values[tap], every[index].variance[tap])

    def _calibrated(self, students: Sequence[Arch]) -> Bound:
        """Take the statistics that ``recalibrated`` needs; the memory bound, given what is held for these."""
        if self.searcher.norm != "recalibrated":
            return self.searcher.bound(held=0)
        largest, last_stage = self.searcher.supernet.key.space.largest, self.students.last_stage
        new = [arch for arch in students if arch not in self.calibrated]
        held_for = ((self.teacher, [largest]), (self.students, tree_order([*self.calibrated, *new])))
        bound = self.searcher.bound(sum(statistics_bytes(side.network, archs, last_stage) for side, archs in held_for))
        if not self.calibrated and self.searcher.teacher is None:
            self._calibrate(self.teacher, [largest], bound)
        if new:
            self._calibrate(self.students, new, bound)
        self.calibrated.update(new)
        return bound

    def _calibrate(self, side: Networks, archs: Sequence[Arch], bound: Bound) -> None:
        """Take statistics of networks, and of the heads on top of them, on the first batches."""
        seen: list[ImageBatch] = []

        def images() -> Iterator[Tensor]:
            for _, batch in self._images(range(self.count)):
                if sum(len(part.names) for part in seen) >= self.searcher.calibration_images:
                    return
                for part in bound.parts(batch, compared=False, changes_statistics=True):
                    seen.append(part)
                    yield part.images

        def visit(stage: int, features: Tensor, first: int, end: int) -> None:
            if self.embedder is not None and stage == STAGES - 1:
                network = () if side is self.teacher else prefix(archs[first], stage)
                sizes = own_sizes(features.shape[-2:], seen[-1])
                self.embedder.calibrate(own_means(features, sizes), network, len(seen) - 1)

        side.calibrate(archs, images(), visit)

    def _images(self, indices: Sequence[int]) -> Iterator[tuple[int, ImageBatch]]:
        """Batches with their numbers; those that are kept are not read again."""
        read = iter(self.batches.only([index for index in indices if index not in self.kept]))
        for index in indices:
            yield index, self.kept[index].whole if index in self.kept else next(read)

    def _on_batch(self, asked: Asked, index: int, batch: ImageBatch, bound: Bound) -> BatchResult:
        """Compare on one batch, in as many parts as the memory needs."""
        changes = self.searcher.norm == "batch"
        kept = self.kept.get(index)
        todo = kept.parts if kept else [(part, None) for part in bound.parts(batch, changes_statistics=changes)]
        done, found = [], []
        while todo:
            (part, targets), *todo = todo
            count = len(part.names)
            try:
                targets = targets or self.comparison.targets(part)
                found.append(self._compare(asked, part, targets, partial(self._settle, count / len(batch.names))))
                if self.comes_back:
                    done.append((part, targets))
            except torch.OutOfMemoryError as error:
                if changes or count == 1:
                    raise UserError(
                        f"the memory of the device ran out on {count} images; lower --batch-size, or give --max-memory"
                    ) from error
                halves = part_of(part, 0, count // 2), part_of(part, count // 2, count)
                todo = [*((half, None) for half in halves), *todo]
        if self.comes_back and kept is None:
            new = _Batch(batch, done)
            if sum(each.bytes for each in self.kept.values()) + new.bytes <= KEPT_PART * bound.bytes:
                self.kept[index] = new
        return self._joined(batch, found)

    def _compare(
        self, asked: Asked, part: ImageBatch, targets: dict[int, Target], settled: Callable[[int], None]
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Divergences and variances at every tap, (2, maps, images) each, and entropies (taps, images)."""
        # On the device to the end: fetching every value when it is found would make a GPU wait each time.
        values = [
            torch.zeros(2, len(maps), len(part.names), dtype=torch.float64, device=self.searcher.device)
            for maps in asked.maps
        ]

        def found(tap: int, first: int, end: int, divergences: Tensor, variances: Tensor) -> None:
            values[tap][:, asked.place(tap, first)] = torch.stack([divergences, variances])

        self.comparison.compare(part, targets, asked.archs, found, asked.known, settled)
        entropies = [targets[known.stage].entropies.cpu().numpy() for known in self.known]
        return [of_tap.cpu().numpy() for of_tap in values], np.stack(entropies)

    def _settle(self, share: float, networks: int) -> None:
        self.progress(networks * share)

    def _joined(self, batch: ImageBatch, found: Sequence[tuple[list[np.ndarray], np.ndarray]]) -> BatchResult:
        """What the parts of a batch came to."""
        by_tap, entropies = zip(*found, strict=True)
        joined = [np.concatenate(parts, axis=2) for parts in zip(*by_tap, strict=True)]
        if not all(np.isfinite(values).all() for values in joined):
            precision = self.searcher.precision
            hint = "check the supernet's weights" if precision == "float32" else "search with --precision float32"
            raise UserError(f"features of one of {', '.join(batch.names)} are not finite in {precision}; {hint}")
        return BatchResult(
            values=[values[0] for values in joined],
            variance=[values[1].sum(axis=1) for values in joined],
            entropies=np.concatenate(entropies, axis=1),
            images=tuple(batch.names),
            sha256=hashlib.sha256(batch.images.contiguous().cpu().numpy().tobytes()).hexdigest(),
            parts=len(found),
        )

    def _result(self, archs: list[Arch], rows: list[np.ndarray], batches: Sequence[int]) -> SearchResult:
        """What is known of networks on some batches."""
        found = [self.found[batch] for batch in batches]
        taps = {}
        for number, (tap, known) in enumerate(zip(self.searcher.taps, self.known, strict=True)):
            own, places = np.unique(rows[number], return_inverse=True)
            taps[tap] = TapResult(
                rows=places,
                values=np.concatenate([known.values[batch][own] for batch in batches], axis=1),
                variance=np.sum([known.variance[batch][own] for batch in batches], axis=0),
                entropies=np.concatenate([batch.entropies[number] for batch in found]),
            )
        return SearchResult(
            archs=archs,
            taps=taps,
            images=[name for batch in found for name in batch.images],
            hashes=[batch.sha256 for batch in found],
            parts=[batch.parts for batch in found],
        )
