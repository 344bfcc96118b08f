"""What makes views of an image: random crops and colours, by lightly or, for the colours on a GPU, by kornia."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from lightly.transforms.byol_transform import BYOLView2Transform
from lightly.transforms.multi_view_transform import MultiViewTransform
from lightly.transforms.simclr_transform import SimCLRViewTransform
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from data_plugin.images.input_format import InputFormat
from data_plugin.pretrain.views import LocatedTransform, Transform
from data_plugin.utils.errors import UserError


@dataclass(frozen=True)
class View:
    """The distribution that a view is drawn from: a random crop, mirrored or not, with random colours.

    Args:
        crop: least area of the crop, as a part of the image.
        jitter: greatest changes of brightness, contrast, saturation and hue, as in torchvision's ``ColorJitter``.
        jitter_probability: how often the colours change.
        grey: how often they are lost.
        blur: how often the view is blurred (Gaussian, standard deviation 0.1 to 2).
        solarize: how often what is brighter than half is inverted.
        size: height and width, as a part of the image size of the recipe.
    """

    crop: float
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: float = 0.8
    grey: float = 0.2
    blur: float = 0.5
    solarize: float = 0.0
    size: float = 1.0

    def pixels(self, image_size: int) -> int:
        """Height and width in pixels, at least 1."""
        return max(1, round(self.size * image_size))


def jitter(strength: float, brightness: float, contrast: float, saturation: float, hue: float) -> Any:
    """A :attr:`View.jitter`, all changes multiplied by ``strength``."""
    return tuple(strength * change for change in (brightness, contrast, saturation, hue))


def whole_views(views: Sequence[View], image_size: int, input_format: InputFormat) -> Transform:
    """Make normalised views (3, ``image_size``, ``image_size``) of an image on the CPU."""
    return cast(Transform, MultiViewTransform([_on_cpu(view, image_size, input_format) for view in views]))


def crops(views: Sequence[View], image_size: int) -> Transform:
    """Make the views' crops of an image alone, mirrored or not: (3, ``image_size``, ``image_size``) in bytes."""
    mirrored = v2.RandomHorizontalFlip()
    cut = [v2.RandomResizedCrop(view.pixels(image_size), scale=(view.crop, 1.0)) for view in views]
    return cast(Transform, MultiViewTransform([v2.Compose([one, mirrored, v2.PILToTensor()]) for one in cut]))


def located(views: Sequence[View], image_size: int, input_format: InputFormat | None) -> LocatedTransform:
    """Make views, and say where in the image each lies.

    Args:
        views: their distributions.
        image_size: height and width of a view in pixels.
        input_format: normalisation of whole views as of :func:`whole_views`; without it crops as of :func:`crops`.
    """

    def finish(view: View) -> Any:
        if input_format is None:
            return v2.PILToTensor()
        return v2.Compose(_without_place(_on_cpu(view, image_size, input_format)))

    cuts = [_Located(view.pixels(image_size), view.crop, finish(view)) for view in views]
    return lambda image: [cut(image) for cut in cuts]


class _Located:
    """A random crop, mirrored or not, what is made of it, and its place (see :class:`LocatedTransform`)."""

    def __init__(self, size: int, least: float, finish: Any) -> None:
        self.cut = v2.RandomResizedCrop(size, scale=(least, 1.0))
        self.finish = finish

    def __call__(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        box = self.cut.make_params([image])
        part = self.cut.transform(image, box)
        mirrored = bool(torch.rand(1) < 0.5)
        if mirrored:
            part = v2.functional.horizontal_flip(part)
        wide, high = box["width"] / image.width, box["height"] / image.height
        x = 2 * box["left"] / image.width + wide - 1
        y = 2 * box["top"] / image.height + high - 1
        return self.finish(part), torch.tensor([[-wide if mirrored else wide, 0, x], [0, high, y]])


class Colours(nn.Module):
    """Makes views of crops, many at once, where they are: each image of a batch has changes of its own.

    Args:
        views: one for each batch of crops.
        input_format: normalisation of the views.

    Raises:
        UserError: if kornia is not installed.
    """

    def __init__(self, views: Sequence[View], input_format: InputFormat) -> None:
        super().__init__()
        try:
            from kornia import augmentation
        except ImportError as error:
            raise UserError(
                "kornia is not installed, which makes views on a GPU; install it with: pip install "
                "'data_plugin[gpu-views]', or make them on the CPU"
            ) from error
        self.changes = nn.ModuleList(
            nn.Sequential(
                augmentation.ColorJitter(*view.jitter, p=view.jitter_probability),
                augmentation.RandomGrayscale(p=view.grey),
                # As wide as two standard deviations at the most.
                augmentation.RandomGaussianBlur((9, 9), (0.1, 2.0), p=view.blur),
                augmentation.RandomSolarize(0.0, 0.0, p=view.solarize),
            )
            for view in views
        )
        for name in ("mean", "std"):
            values = torch.tensor(getattr(input_format, name)).view(1, 3, 1, 1) / 255
            self.register_buffer(name, values, persistent=False)

    @torch.no_grad()
    def forward(self, batches: Sequence[Tensor], seed: Sequence[int]) -> list[Tensor]:
        """Change colours and normalise.

        Args:
            batches: for each view its crops (N, 3, H, W), 0 to 255 as bytes.
            seed: numbers that decide the changes.

        Returns:
            For each view (N, 3, H, W).
        """
        with torch.random.fork_rng(devices=[]), torch.autocast(batches[0].device.type, enabled=False):
            torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
            changed = [change(crop.float() / 255) for change, crop in zip(self.changes, batches, strict=True)]
        return [(view - self.get_buffer("mean")) / self.get_buffer("std") for view in changed]


def _without_place(transform: Any) -> list[Any]:
    """The steps of one of lightly's transforms that leave every pixel where it is."""
    moving = (v2.RandomResizedCrop, v2.RandomHorizontalFlip)
    return [step for step in transform.transform.transforms if not isinstance(step, moving)]


def _on_cpu(view: View, image_size: int, input_format: InputFormat) -> Any:
    brightness, contrast, saturation, hue = view.jitter
    options: dict[str, Any] = {
        "input_size": view.pixels(image_size),
        "min_scale": view.crop,
        "cj_prob": view.jitter_probability,
        "cj_bright": brightness,
        "cj_contrast": contrast,
        "cj_sat": saturation,
        "cj_hue": hue,
        "random_gray_scale": view.grey,
        "gaussian_blur": view.blur,
        "normalize": {name: [value / 255 for value in getattr(input_format, name)] for name in ("mean", "std")},
    }
    if view.solarize:
        return BYOLView2Transform(solarization_prob=view.solarize, **options)
    return SimCLRViewTransform(**options)
