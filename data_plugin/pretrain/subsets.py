"""The parts of the images that sub-nets are trained on, as codes say them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_plugin.features.codes import Codes
from data_plugin.images.image_files import Images
from data_plugin.pretrain.phases import Phases
from data_plugin.pretrain.recipe import Recipe
from data_plugin.space.arch import STAGES
from data_plugin.utils.errors import UserError


@dataclass(frozen=True)
class Subsets:
    """Which sub-net every image trains in which step.

    Args:
        digits: the images' codes in their order (N, levels), -1 in the rows of images without one.
        phases: when how many digits count.
        parts: parts of equal size that a batch is dealt in, each of one code.
        codes: fingerprint of the codes.
        random: whether they were dealt at random, as a control.
    """

    digits: np.ndarray
    phases: Phases
    parts: int
    codes: str
    random: bool

    def to_json(self) -> dict[str, Any]:
        """What decides a training's result, as JSON values."""
        return {
            "fingerprint": self.codes,
            "levels": self.phases.levels,
            "children": self.phases.children,
            "random": self.random,
        }


def open_subsets(
    codes: str | os.PathLike[str] | None, images: Images, recipe: Recipe, steps: int, accumulate: int
) -> Subsets | None:
    """Read the codes that a training was given.

    Args:
        codes: their folder; None where there is one supernet for all images.
        images: the images of the training.
        recipe: says how many codes are in a batch, and how long the phases are.
        steps: steps of the training.
        accumulate: parts that every batch is computed in.

    Raises:
        UserError: if there are no codes and the recipe asks for some, or the other way round; if they are of other
            images, have more levels than a supernet has stages, or a code has fewer images than its part of a batch.
    """
    if codes is None:
        if recipe.codes_per_batch is not None:
            raise UserError(
                "the recipe trains sub-nets on parts of the images; give their codes with --codes, which data-cluster "
                "makes, or a recipe without codes_per_batch"
            )
        return None
    if recipe.codes_per_batch is None:
        raise UserError(
            "there are codes, and the recipe trains one supernet on all images; expected a recipe with codes_per_batch,"
            " such as micro_sdr"
        )
    found = Codes.read(Path(codes))
    levels, children = found.header.levels, found.header.children
    if levels > STAGES:
        raise UserError(
            f"the codes in {codes} have {levels} levels, and a supernet has groups in {STAGES} stages; expected at "
            f"most {STAGES}, so cluster again with --levels {STAGES}"
        )
    digits = found.of(images)
    phases = Phases.of(levels, children, steps, recipe.phases)
    parts = max(1, recipe.codes_per_batch // accumulate)
    _require_filled(digits, phases, recipe.batch_size // (accumulate * parts), recipe)
    return Subsets(digits, phases, parts, found.fingerprint(), found.header.random)


def _require_filled(digits: np.ndarray, phases: Phases, size: int, recipe: Recipe) -> None:
    numbers = phases.numbers(digits, phases.levels)
    counts = np.bincount(numbers[numbers >= 0], minlength=phases.sub_nets(phases.levels))
    least = int(counts.argmin())
    if counts[least] < size:
        path = ",".join(map(str, phases.path(least, phases.levels)))
        raise UserError(
            f"the code {path} has {counts[least]} images, fewer than the {size} that are its part of a batch of "
            f"{recipe.batch_size}; expected a smaller batch, codes_per_batch above {recipe.codes_per_batch}, or codes "
            "of fewer levels"
        )
