"""The task that a backbone is searched for: its images, as its model sees them, and the features that it reads."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_plugin.frameworks.framework import Framework, Task
from data_plugin.frameworks.framework_config import FrameworkConfig
from data_plugin.frameworks.registry import find_framework, frameworks_of
from data_plugin.images.batch import ImageSource, LoadedImage
from data_plugin.images.image_files import Images
from data_plugin.images.input_format import InputFormat
from data_plugin.images.open import open_images
from data_plugin.search.taps import EMBEDDING
from data_plugin.space.arch import Arch
from data_plugin.space.resolution import Resolution
from data_plugin.supernet.checkpoint import SupernetInfo, pretrained_size
from data_plugin.utils.errors import UserError
from data_plugin.utils.extras import require_installed
from data_plugin.utils.workers import spare_cores

TORCHVISION = "torchvision"
"""What a report names in the place of a framework where images are classified."""

ConfigWriter = Callable[[Arch, Path, Path], None]
"""Writes what trains a network: its architecture, where its weights will be, and the file to write."""


@dataclass(frozen=True)
class Downstream:
    """What a search asks of the task that it searches a backbone for.

    Args:
        framework: the package that prepares the images.
        model: what the backbone is for, in words.
        distributions: what is installed for it, to report the versions.
        images: the images, as the task's model sees them.
        place: where they are, in words.
        fingerprint: of images that are none of a config's data sets; None for those of a config.
        taps: the features that the model reads.
        resolution: at which strides and dilations it runs its backbone.
        lacking: what is not there and fine-tuning will ask for; a sentence each.
        configs: what is written for every winner, by the file's name.
    """

    framework: str
    model: str
    distributions: Sequence[str]
    images: ImageSource
    place: str
    fingerprint: str | None
    taps: tuple[str, ...]
    resolution: Resolution
    lacking: Sequence[str]
    configs: dict[str, ConfigWriter]


def config_task(
    config: str,
    input_format: InputFormat,
    *,
    task: Task | None,
    framework: str | None,
    data_root: Path | None,
    classes: Sequence[str] | None,
    options: Sequence[str],
    images: Path | None,
) -> Downstream:
    """The task of a framework's config.

    Args:
        config: name or path of the config.
        input_format: the supernet's, which the config has to share.
        task: what its model is for; None leaves it to the config's name.
        framework: the framework; None picks one, see :func:`find_framework`.
        data_root: folder of the data sets; None leaves the config's.
        classes: the classes of objects; None leaves them to the config and the annotations.
        options: ``KEY=VALUE`` changes of the config.
        images: images in the place of the config's, see :func:`open_images`; None takes its training images.

    Raises:
        UserError: if anything that was given does not fit.
    """
    chosen = find_framework(framework, config, task)
    opened = chosen.open(config, options, data_root, classes)
    same = _same_config(chosen, config, data_root, classes)
    input_format.require(opened.input_format, f"the config {config}, by its {chosen.input_keys},")
    own = None if images is None else open_images(images)
    return Downstream(
        framework=chosen.name,
        model=chosen.title,
        distributions=chosen.distributions,
        images=opened.images() if own is None else opened.images_of(own),
        place=", ".join(opened.data_sets) if own is None else f"from {images}",
        fingerprint=None if own is None else own.fingerprint(),
        taps=opened.taps,
        resolution=opened.resolution,
        lacking=opened.lacking if own is None else (),
        configs={each.configs.file_name(config): found.write for each, found in [(chosen, opened), *same]},
    )


def _same_config(
    chosen: Framework, config: str, data_root: Path | None, classes: Sequence[str] | None
) -> list[tuple[Framework, FrameworkConfig]]:
    """Our config of the same name for the other installed frameworks of the task, as we ship it."""
    with warnings.catch_warnings(action="ignore"):  # the config that is searched with has said the same of the data
        return [
            (other, other.open(config, (), data_root, classes))
            for other in frameworks_of(chosen.task)
            if other.name != chosen.name and other.is_installed and other.configs.ours(config)
        ]


def classification_task(
    images: Path, image_size: int | None, supernet: str | os.PathLike[str], info: SupernetInfo
) -> Downstream:
    """Images that are classified as they are in ``data-evaluate``: no framework is needed, and no label.

    Args:
        images: a folder of images at any depth, and what else :func:`open_images` takes.
        image_size: height and width at which a network sees an image, in pixels; None takes the pre-training's.
        supernet: the supernet's file, for messages.
        info: what its header says.

    Raises:
        UserError: if there are no images, nobody says their size, or torchvision is not installed.
    """
    require_installed((TORCHVISION,), extra="pretrain")
    size = pretrained_size(supernet, info) if image_size is None else image_size
    opened = open_images(images)
    return Downstream(
        framework=TORCHVISION,
        model=f"classification at {size}x{size}",
        distributions=(TORCHVISION,),
        images=CroppedImages(opened, size, info.input_format),
        place=f"from {images}",
        fingerprint=opened.fingerprint(),
        taps=(EMBEDDING,),
        resolution=Resolution(),
        lacking=(),
        configs={},
    )


class CroppedImages(ImageSource):
    """Images as ``data-evaluate`` has them, their centres cut out.

    Args:
        images: the images.
        size: height and width of the result in pixels.
        input_format: channel order and normalisation.
    """

    def __init__(self, images: Images, size: int, input_format: InputFormat) -> None:
        from data_plugin.images.crops import centre_crop

        super().__init__(images.keys, spare_cores())
        self._images = images
        self._size = size
        self._transform = centre_crop(size, input_format)

    def __getitem__(self, index: int) -> LoadedImage:
        image = self._images.read(index)
        if image is None:
            raise UserError(f"the image {self._images.names[index]} cannot be read; replace or remove it")
        return LoadedImage(self._transform(image), (self._size, self._size))
