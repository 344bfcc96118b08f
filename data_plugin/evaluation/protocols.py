"""The measurements of a supernet's networks: nearest neighbours, linear evaluation and fine-tuning."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.backbones.extract import extract
from data_plugin.evaluation.accuracy import Accuracy
from data_plugin.evaluation.images import (
    AugmentedImages,
    EpochShuffle,
    LabelledImages,
)
from data_plugin.evaluation.knn import knn_accuracy, require_neighbours
from data_plugin.features.pooled import CalibratedNetworks, labelled_features
from data_plugin.images.calibration import calibration_images
from data_plugin.images.crops import centre_crop, random_crop
from data_plugin.images.image_folder import ImageFolder as UnlabelledFolder
from data_plugin.images.input_format import InputFormat
from data_plugin.images.labelled import labelled_part
from data_plugin.space.arch import Arch
from data_plugin.supernet.calibration import calibrate
from data_plugin.utils.errors import UserError

if TYPE_CHECKING:
    from data_plugin.evaluation.classification import ClassifierRecipe


@dataclass(frozen=True)
class Evaluation:
    """Networks and the labelled images that they are measured on.

    Args:
        supernet: the supernet, on the device of the computation.
        archs: the networks.
        train: images that are voted with or trained on.
        val: images of the same classes that accuracy is measured on.
        image_size: height and width of a network's input in pixels.
        input_format: channel order and normalisation of the pre-training.
        calibration: training images that each network's batch-norm statistics are averaged over beforehand.
        batch_size: images per batch where nothing is trained.
        workers: processes that read images; 0 reads them in this one.
        seed: decides which images are drawn, their order and crops, and the classifiers' first weights.

    Raises:
        UserError: if a number is out of range.
    """

    supernet: DynamicResNet
    archs: Sequence[Arch]
    train: ImageFolder
    val: ImageFolder
    image_size: int
    input_format: InputFormat
    calibration: int = 2_048
    batch_size: int = 256
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("image_size", 1), ("calibration", 1), ("batch_size", 1), ("workers", 0), ("seed", 0)):
            if getattr(self, name) < least:
                what = name.replace("_", " ")
                raise UserError(f"the {what} is {getattr(self, name)}; expected a whole number from {least} on")

    def knn(self, k: int = 200, temperature: float = 0.07) -> dict[Arch, Accuracy]:
        """Accuracy of weighted nearest neighbours, see :func:`knn_accuracy`."""
        require_neighbours(k, len(self.train))
        networks = self._calibrated()
        train_features, train_labels = labelled_features(networks, self._shown(self.train, "training images"))
        val_features, val_labels = labelled_features(networks, self._shown(self.val, "validation images"))
        return {
            arch: knn_accuracy(train_features[arch], train_labels, val_features[arch], val_labels, k, temperature)
            for arch in track(self.archs, "nearest neighbours")
        }

    def linear(self, recipe: ClassifierRecipe, folder: Path, resume: bool = False) -> dict[Arch, Accuracy]:
        """Accuracy of linear classifiers on frozen features, all trained on the same batches (DATA, section 4.2).

        Args:
            recipe: hyper-parameters.
            folder: where the checkpoint is kept.
            resume: go on from it.

        Raises:
            UserError: see :func:`fit`.
        """
        from data_plugin.evaluation.classification import Classifiers, fit

        torch.manual_seed(self.seed)
        channels = {arch: arch.out_channels[-1] for arch in self.archs}
        classifiers = Classifiers(self._calibrated().features, channels, len(self.train.classes), recipe)
        train = self._augmented(list(range(len(self.train))), recipe.batch_size)
        run = {**self._run(), "networks": [str(arch) for arch in self.archs]}
        return fit(classifiers, train, self._plain(self.val), folder, run, self._device, resume)

    def semisup(
        self, recipe: ClassifierRecipe, fraction: float, folder: Path, resume: bool = False
    ) -> dict[Arch, Accuracy]:
        """Accuracy of networks that are fine-tuned whole, one after the other, on a part of the training images.

        Args:
            recipe: hyper-parameters.
            fraction: the part of every class whose labels are used, above 0 and up to 1.
            folder: where a folder for the checkpoint of each network is made.
            resume: go on from these.

        Raises:
            UserError: if the fraction is out of range, or see :func:`fit`.
        """
        from data_plugin.evaluation.classification import CHECKPOINT, Classifiers, fit

        indices = labelled_part(self.train.targets, fraction, self.seed)
        run = {**self._run(), "fraction": fraction}
        found: dict[Arch, Accuracy] = {}
        for arch in self.archs:
            torch.manual_seed(self.seed)
            network = extract(self.supernet, arch)
            calibrate([network], self._calibration())
            channels = {arch: arch.out_channels[-1]}
            classifiers = Classifiers(_Pooled(network), channels, len(self.train.classes), recipe)
            going_on = resume and (folder / str(arch) / CHECKPOINT).is_file()
            train = self._augmented(indices, recipe.batch_size)
            found |= fit(classifiers, train, self._plain(self.val), folder / str(arch), run, self._device, going_on)
        return found

    @property
    def _device(self) -> torch.device:
        return next(self.supernet.parameters()).device

    def _calibrated(self) -> CalibratedNetworks:
        return CalibratedNetworks(self.supernet, self.archs, self._calibration())

    def _calibration(self) -> DataLoader[Tensor]:
        transform = centre_crop(self.image_size, self.input_format)
        return calibration_images(
            Path(self.train.root), transform, self.calibration, self.batch_size, self.seed, self.workers
        )

    def _plain(self, images: ImageFolder) -> DataLoader[Any]:
        dataset = LabelledImages(images, centre_crop(self.image_size, self.input_format))
        return DataLoader(dataset, self.batch_size, num_workers=self.workers)

    def _shown(self, images: ImageFolder, what: str) -> Any:
        return track(self._plain(images), f"features of {what}")

    def _augmented(self, indices: list[int], batch_size: int) -> DataLoader[Any]:
        dataset = AugmentedImages(self.train, random_crop(self.image_size, self.input_format), self.seed)
        return DataLoader(
            dataset,
            min(batch_size, len(indices)),
            sampler=EpochShuffle(indices, self.seed),
            num_workers=self.workers,
            drop_last=True,  # a last batch of one image would have no batch statistics
        )

    def _run(self) -> dict[str, Any]:
        """What a resumed training must share."""
        weights = hashlib.sha256()
        for value in self.supernet.state_dict().values():
            weights.update(value.cpu().numpy().tobytes())
        return {
            "weights": weights.hexdigest(),
            "images": UnlabelledFolder(Path(self.train.root)).fingerprint(),
            "image_size": self.image_size,
            "calibration": self.calibration,
            "seed": self.seed,
        }


class _Pooled(nn.Module):
    """A network whose C5 is averaged over its positions."""

    def __init__(self, network: DATAResNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[Arch, Tensor]:
        return {self.network.arch: self.network(images)[-1].mean(dim=(2, 3))}
