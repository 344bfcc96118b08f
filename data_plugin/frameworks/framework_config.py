"""What search and fine-tuning ask of a config of a detection or segmentation framework."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from data_plugin.images.batch import ImageSource
from data_plugin.images.image_files import Images
from data_plugin.images.input_format import InputFormat
from data_plugin.space.arch import Arch
from data_plugin.space.resolution import Resolution

DEMO = "try a search on drawn images with --demo-data"
"""What whoever has no data can do, for the end of a sentence."""

LAST_CHECKPOINT = "last_checkpoint"
"""The file in which detectron2 and mmengine alike name the checkpoint that a run would resume from."""


class FrameworkConfig(ABC):
    """One config of a framework, read, with ``DATAResNet`` in its ResNet's place.

    Its data sets are looked for, too. Where the config's own are not there, nothing is raised before they are asked
    for, by :meth:`images` or :meth:`finetune`; a data root that is given has to hold them.

    Every framework's adapter has one such class. What a user can put right is raised as
    :class:`~data_plugin.utils.errors.UserError`. Any other exception, of the framework or of the adapter, may be left
    as it is: :meth:`~data_plugin.frameworks.framework.Framework.open` makes one sentence of it that names the option
    at fault, by asking again with fewer options. So reading a config has no effect beyond the object.

    Args:
        path: the config file.
        options: ``KEY=VALUE`` strings that change entries, in the framework's own keys, which must exist.
        data_root: the folder that holds the data sets, instead of the config's.
        classes: the classes of data sets in VOC's, COCO's or Cityscapes' layout, in order; None takes those that the
            config names, else those of the data, see :func:`~data_plugin.images.voc_classes.find_classes`,
            :func:`~data_plugin.images.coco_classes.find_classes` and
            :func:`~data_plugin.images.class_list.read_class_list`.

    Raises:
        UserError: if the file is no config, an option has no such key or does not fit, the backbone is no plain ResNet,
            the data root is missing or not of the data set's layout, or the classes are not those of the annotations.
    """

    @abstractmethod
    def __init__(
        self,
        path: Path,
        options: Sequence[str] = (),
        data_root: Path | None = None,
        classes: Sequence[str] | None = None,
    ) -> None: ...

    @property
    @abstractmethod
    def input_format(self) -> InputFormat:
        """Channel order and normalisation of the config's model."""

    @property
    @abstractmethod
    def taps(self) -> tuple[str, ...]:
        """The feature maps that the config's model reads, such as ``("C5",)`` for a C4 detector."""

    @property
    @abstractmethod
    def resolution(self) -> Resolution:
        """At which strides and dilations the config's model runs its backbone, whose features search has to compare."""

    @property
    @abstractmethod
    def data_sets(self) -> Sequence[str]:
        """The training data sets, each by its name and folder, such as ``voc_2007_trainval in /data/VOC2007``."""

    @property
    @abstractmethod
    def lacking(self) -> Sequence[str]:
        """What is not there and fine-tuning will ask for, where a search does without it; a sentence each."""

    @abstractmethod
    def images(self) -> ImageSource:
        """The training images, each by itself through the framework's own loader and test-time preprocessing.

        They need no labels. Their names are the files' names, so that the same seed draws the same images in every
        framework.
        """

    @abstractmethod
    def images_of(self, images: Images) -> ImageSource:
        """Any image files, each by itself through the framework's own loader and test-time preprocessing.

        Args:
            images: the images, which need to be in none of the config's data sets.
        """

    @abstractmethod
    def write(self, arch: Arch, weights: Path, path: Path, iterations: int | None = None) -> None:
        """Write a self-contained config that trains a network as it is; this config stays as it is.

        Args:
            arch: the network.
            weights: where its weights will be, in torchvision's names, in the folder of the config.
            path: the file to write.
            iterations: the training's length, its schedule in proportion; None leaves the config's.

        Raises:
            UserError: if the length of the config's training cannot be set.
        """

    @abstractmethod
    def finetune(
        self,
        out: Path,
        *,
        resume: bool = False,
        eval_only: bool = False,
        weights: Path | None = None,
        stepped: Callable[[int], None] = lambda step: None,
    ) -> Mapping[str, float]:
        """Train with the framework's own trainer and evaluate with its own evaluator.

        Runs on the CPU where there is no GPU, and on all processes of a ``torchrun``. This config stays as it is.

        Args:
            out: folder of checkpoints and logs.
            resume: go on from the last checkpoint in ``out``.
            eval_only: evaluate only, ``weights`` or else the last checkpoint in ``out``.
            weights: checkpoint of a whole detector or segmenter to start from or to evaluate.
            stepped: called with the number of steps that are done after every step of training, and with 0 after the
                first batch of an evaluation alone. What fails before the first call is taken for a fault of the config,
                what fails later for one of the run; so a training tries a batch of its evaluation before it begins.

        Returns:
            Figures in percent: ``AP``, ``AP50`` and ``AP75`` of a detector, ``mIoU``, ``aAcc`` and ``mAcc`` of a
            segmenter.

        Raises:
            UserError: if there is nothing to resume or evaluate, or weights or labels do not match; ``out`` is not
                touched then.
        """
