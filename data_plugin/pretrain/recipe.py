"""The hyper-parameters of pre-training, and the recipes that a command line can name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from data_plugin.errors import UserError


def _require_positive(settings: Any, *names: str) -> None:
    for name in names:
        if not getattr(settings, name) > 0:
            raise UserError(f"{name.replace('_', ' ')} is {getattr(settings, name)}; expected a number above 0")


@dataclass(frozen=True)
class MoCoV2Settings:
    """Hyper-parameters of MoCo v2 (Chen et al., 2020, arXiv:2003.04297).

    Args:
        queue: number of keys of earlier steps that serve as negatives; a multiple of the batch size.
        temperature: what similarities are divided by.
        hidden: width of the projection head's hidden layer.
        dim: width of the projection.
        batch_norm: whether a batch norm follows the hidden layer; MoCo v2 has none, but short runs collapse without.
        crop: least area of a random crop, as a part of the image.
        jitter: strength of the colour jitter, 1 being the paper's.
        blur: probability of Gaussian blur.
    """

    queue: int = 65_536
    temperature: float = 0.2
    hidden: int = 2_048
    dim: int = 128
    batch_norm: bool = False
    crop: float = 0.2
    jitter: float = 1.0
    blur: float = 0.5

    def __post_init__(self) -> None:
        _require_positive(self, "queue", "temperature", "hidden", "dim")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what pre-training computes, save for the images, the space and the seed.

    Args:
        method: settings of the self-supervised method; their class picks it.
        epochs: passes over the images.
        batch_size: images per step.
        image_size: height and width of a view in pixels.
        lr: learning rate after the warm-up; it falls to 0 on a cosine.
        warmup: part of the steps in which the learning rate rises from 0, from 0 to less than 1.
        momentum: momentum of SGD.
        weight_decay: weight decay of SGD.
        key_momentum: what the key branch keeps of itself in a step; the rest comes from the query branch.

    Raises:
        UserError: if a number is out of range.
    """

    method: MoCoV2Settings
    epochs: int
    batch_size: int
    image_size: int
    lr: float
    warmup: float
    momentum: float
    weight_decay: float
    key_momentum: float

    def __post_init__(self) -> None:
        _require_positive(self, "epochs", "batch_size", "image_size", "lr")
        if not 0 <= self.key_momentum < 1:
            raise UserError(f"the key momentum is {self.key_momentum}; expected at least 0 and less than 1")
        if not 0 <= self.warmup < 1:
            raise UserError(f"the warm-up is {self.warmup} of the steps; expected at least 0 and less than 1")
        if self.method.queue % self.batch_size:
            raise UserError(
                f"the queue holds {self.method.queue} keys, which is no multiple of the batch size {self.batch_size}; "
                "change one of them, so that every step replaces whole batches"
            )

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values, the method's under ``method``."""
        return dataclasses.asdict(self)


RECIPES: dict[str, Recipe] = {
    # DATA, section 4.1, with MoCo v2's own head, queue and views.
    "data_mocov2_in1k": Recipe(
        method=MoCoV2Settings(queue=65_536, temperature=0.2, hidden=2_048, dim=128),
        epochs=200,
        batch_size=1_024,
        image_size=224,
        lr=0.12,
        warmup=0.0,
        momentum=0.9,
        weight_decay=7.5e-5,
        key_momentum=0.999,
    ),
    # Small images, small networks, minutes on a CPU.
    # Small images and networks on a CPU. In short runs MoCo v2's own head first collapses; with a batch norm in it,
    # a low temperature and a fast key branch the keys spread from the start.
    "micro": Recipe(
        method=MoCoV2Settings(queue=1_024, temperature=0.1, hidden=512, dim=128, batch_norm=True, jitter=0.5, blur=0.0),
        epochs=10,
        batch_size=64,
        image_size=32,
        lr=0.03,
        warmup=0.1,
        momentum=0.9,
        weight_decay=1e-4,
        key_momentum=0.99,
    ),
}
"""The recipes that a command line can name."""


def named_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UserError: if there is none; the message lists the known names.
    """
    if name not in RECIPES:
        raise UserError(f"{name!r} is not a recipe; known names: {', '.join(RECIPES)}")
    return RECIPES[name]
