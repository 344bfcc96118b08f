"""Whether small and large networks both learn: nearest-neighbour accuracy in the course of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from data_plugin.evaluation.images import LabelledImages
from data_plugin.evaluation.knn import knn_accuracy
from data_plugin.features.pooled import CalibratedNetworks, labelled_features
from data_plugin.images.calibration import calibration_images
from data_plugin.images.crops import centre_crop
from data_plugin.images.input_format import InputFormat
from data_plugin.images.labelled import labelled_folder, require_same_classes
from data_plugin.space.search_space import SearchSpace
from data_plugin.utils.errors import UserError

NEIGHBOURS = 200
"""Neighbours that vote, as in Wu et al., 2018; fewer where there are fewer training images."""

CALIBRATION = 1_024
"""Training images for the networks' batch-norm statistics."""


class OnlineKNN(Callback):
    """Logs top-1 (%) of the query branch's smallest, middle and largest network, before the first step and regularly.

    Labels are read for this alone; the training itself never sees them, and does not change by it. Every process
    computes the same figures.

    Args:
        train: labelled folder whose images vote.
        val: labelled folder of the same classes whose images are classified.
        every: steps between two measurements.
        space: the search space.
        image_size: height and width of a network's input in pixels.
        input_format: channel order and normalisation.
        batch_size: images per forward pass.
        workers: processes that read images.

    Raises:
        UserError: if a folder has no classes, the two have different ones, or ``every`` is below 1.
    """

    def __init__(
        self,
        train: Path,
        val: Path,
        every: int,
        space: SearchSpace,
        image_size: int,
        input_format: InputFormat,
        batch_size: int,
        workers: int = 0,
    ) -> None:
        if every < 1:
            raise UserError(f"kNN every {every} steps was asked for; expected at least 1")
        folders = labelled_folder(train), labelled_folder(val)
        require_same_classes(*folders)
        transform = centre_crop(image_size, input_format)
        self.train, self.val = (
            DataLoader(LabelledImages(folder, transform), batch_size, num_workers=workers) for folder in folders
        )
        self.calibration = calibration_images(train, transform, CALIBRATION, batch_size, seed=0, workers=workers)
        self.neighbours = min(NEIGHBOURS, len(folders[0]))
        self.every = every
        self.networks = {"smallest": space.smallest, "middle": space.middle, "largest": space.largest}
        self._measured = -1

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Measure the untrained networks."""
        if trainer.global_step == 0:
            self._measure(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure where it is time."""
        step = trainer.global_step
        if step != self._measured and (step % self.every == 0 or step == trainer.max_steps):
            self._measure(trainer, pl_module)

    def _measure(self, trainer: Trainer, pl_module: Any) -> None:
        self._measured = trainer.global_step
        networks = CalibratedNetworks(pl_module.query, list(self.networks.values()), self.calibration)
        voting, votes = labelled_features(networks, self.train)
        asked, labels = labelled_features(networks, self.val)
        found = {
            f"knn/{name}": 100 * knn_accuracy(voting[arch], votes, asked[arch], labels, self.neighbours).top1
            for name, arch in self.networks.items()
        }
        for logger in trainer.loggers:
            logger.log_metrics(found, step=trainer.global_step)
        shown = ", ".join(f"{name.removeprefix('knn/')} {value:.2f} %" for name, value in found.items())
        trainer.print(f"kNN top-1 after step {trainer.global_step}: {shown}")
