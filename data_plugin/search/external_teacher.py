"""A frozen network of any kind as the teacher of a search, in the place of the supernet's largest network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_plugin.images.batch import ImageBatch
from data_plugin.images.input_format import InputFormat
from data_plugin.pretrain.teacher import FORMS, TeacherInput, answer, features_of, load_teacher
from data_plugin.space.arch import STAGE_TAPS
from data_plugin.supernet.checkpoint import SupernetInfo
from data_plugin.utils.errors import UserError

PRETRAINING = "pre-training"
"""Names the network that taught the supernet."""

INPUT = ("size", "mean", "std")
"""What is told of a teacher's input."""

TAPS = STAGE_TAPS[2:]
"""What it can be compared at: its one map is about as coarse as these, and says nothing of finer ones."""


class ExternalTeacher:
    """What a network says of a search's images, on the grids of a supernet's feature maps.

    It sees every image whole, as in pre-training: stretched to a square of its own size, in its own normalisation. Its
    map is brought to the size of the student's by bilinear interpolation. That it has other channels is no matter to
    the relations of Eq. 4.

    Args:
        name: what it is called.
        network: takes normalised images (N, 3, S, S) to a feature map (N, C, h, w) or tokens (N, L, C).
        given: its input.
        saw: how the search's images are normalised.
    """

    def __init__(self, name: str, network: nn.Module, given: TeacherInput, saw: InputFormat) -> None:
        self.name = name
        self.network = network.eval().requires_grad_(False)
        self.features = features_of(network)
        self.given = given
        self.saw = saw

    @torch.inference_mode()
    def maps(self, batch: ImageBatch, device: torch.device) -> list[Tensor]:
        """Its map (1, C, h, w) of every image, without the padding.

        Args:
            batch: the images, as the search feeds them.
            device: where to compute.

        Raises:
            UserError: if the network gives no map or values that are not finite.
        """
        square, found = (self.given.size, self.given.size), []
        for image, (height, width) in zip(batch.images.to(device), batch.sizes, strict=True):
            own = F.interpolate(image[None, :, :height, :width], square, mode="bilinear", antialias=True)
            found.append(answer(self.network, self.features, self.given, self._pixels(own)))
        return found

    def _pixels(self, normalised: Tensor) -> Tensor:
        """Values from 0 to 255, RGB, of images in the search's format."""
        mean, std = (normalised.new_tensor(each).view(1, 3, 1, 1) for each in (self.saw.mean, self.saw.std))
        pixels = normalised * std + mean
        return pixels if self.saw.channel_order == "RGB" else pixels.flip(1)


def open_external_teacher(words: Sequence[str], info: SupernetInfo) -> ExternalTeacher:
    """The network that a user names as the teacher of a search.

    Args:
        words: what :func:`~data_plugin.pretrain.teacher.load_teacher` reads, or ``pre-training`` for the network that
            taught the supernet; then, where its source does not tell, ``size=224``, ``mean=123.7,116.3,103.5`` and
            ``std=58.4,57.1,57.4``, per channel (RGB, 0 to 255), and ``weights=FILE`` of its state dict.
        info: what the supernet's file says, whose input format the search's images have.

    Raises:
        UserError: if there is no such network, its input is not known, or a word is wrong.
    """
    name, *told = words
    if name == PRETRAINING:
        name, told = _of_pretraining(told, info)
    given = dict(_told(word) for word in told)
    shape = {key: value for key, value in given.items() if key != "weights"}
    if shape and set(shape) != set(INPUT):
        missing = next(key for key in INPUT if key not in shape)
        raise UserError(f"the input of the search's teacher has no {missing}; expected size, mean and std, all or none")
    network, known = load_teacher(name, given.get("weights", ""), TeacherInput(**shape) if shape else None)
    return ExternalTeacher(name, network, known, info.input_format)


def _of_pretraining(told: Sequence[str], info: SupernetInfo) -> tuple[str, list[str]]:
    """The name and the input of the network that taught a supernet."""
    settings = info.training.get("recipe", {}).get("settings", {})
    if not settings.get("teacher"):
        raise UserError(
            f"the supernet was trained with {info.method}, without a frozen teacher; name one as the search's teacher "
            f"instead of {PRETRAINING}: {FORMS}"
        )
    if told:
        raise UserError(f"{told[0]!r} was given, but the supernet's file says what its teacher is shown; leave it out")
    size = settings["teacher_size"]
    numbers = {key: ",".join(map(str, settings[f"teacher_{key}"])) for key in ("mean", "std")}
    words = [f"size={size}", *(f"{key}={value}" for key, value in numbers.items())] if size else []
    return settings["teacher"], words + ([f"weights={path}"] if (path := settings["teacher_weights"]) else [])


def _told(word: str) -> tuple[str, Any]:
    """A name and its value, from ``size=224`` and the like."""
    key, _, text = word.partition("=")
    if key == "weights" and text:
        return key, text
    try:
        value = int(text) if key == "size" else [float(number) for number in text.split(",")]
    except ValueError:
        value = []
    right = isinstance(value, int) and value > 0 if key == "size" else isinstance(value, list) and len(value) == 3
    if key not in INPUT or not right:
        raise UserError(
            f"{word!r} says nothing of the search's teacher; expected size=PIXELS, mean=R,G,B, std=R,G,B or "
            "weights=FILE"
        )
    return key, value


def on_grid(maps: Sequence[Tensor], sizes: Sequence[tuple[int, int]], padded: tuple[int, int]) -> Tensor:
    """Maps of several images at the sizes of a student's, and padded as those are.

    Args:
        maps: (1, C, h, w) each.
        sizes: height and width of every image's own part of the student's map.
        padded: height and width of that map.

    Returns:
        (N, C, *padded).
    """
    found = maps[0].new_zeros(len(maps), maps[0].shape[1], *padded)
    for image, (one, (height, width)) in enumerate(zip(maps, sizes, strict=True)):
        found[image, :, :height, :width] = F.interpolate(one, (height, width), mode="bilinear", antialias=True)[0]
    return found


def require_taps(taps: Sequence[str]) -> None:
    """Check that an external teacher can be compared at taps.

    Raises:
        UserError: naming those at which it cannot.
    """
    finer = [tap for tap in taps if tap not in TAPS]
    if finer:
        raise UserError(
            f"the tap {finer[0]} cannot be compared with an external teacher, whose one map is as coarse as "
            f"{' or '.join(TAPS)}; give --taps {','.join(TAPS)}, or {TAPS[-1]} alone, or leave out --search-teacher"
        )
