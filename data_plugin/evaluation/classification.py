"""Linear classifiers on top of features, frozen or fine-tuned, trained with Lightning."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from data_plugin.evaluation.accuracy import Accuracy
from data_plugin.space.arch import Arch
from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole
from data_plugin.utils.tensor_files import read_tensors

CHECKPOINT = "last.ckpt"
"""The file that a stopped training goes on from, written after each epoch."""

_RUN = "evaluation"


@dataclass(frozen=True)
class ClassifierRecipe:
    """How a classifier is trained: SGD whose learning rates fall in steps.

    Args:
        epochs: passes over the images.
        batch_size: images per step.
        head_lr: learning rate of the classifier.
        network_lr: learning rate of the network below; 0 where it is frozen.
        weight_decay: weight decay of both.
        decay_at: when the learning rates fall, as parts of the epochs.
        decay_by: what they are multiplied with then.
        momentum: momentum of SGD.

    Raises:
        UserError: if a number is out of range.
    """

    epochs: int
    batch_size: int
    head_lr: float
    network_lr: float
    weight_decay: float
    decay_at: tuple[float, ...]
    decay_by: float
    momentum: float = 0.9

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "head_lr"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name.replace('_', ' ')} is {getattr(self, name)}; expected a number above 0")
        for name in ("network_lr", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name.replace('_', ' ')} is {getattr(self, name)}; expected a number from 0 on")


LINEAR = ClassifierRecipe(
    epochs=100, batch_size=256, head_lr=30.0, network_lr=0.0, weight_decay=0.0, decay_at=(0.6, 0.8), decay_by=0.1
)
"""Linear evaluation: 100 epochs as in DATA, section 4.2; the rest from the configs of the authors' release, which are
those of MoCo (He et al., 2020, section 4.1)."""

SEMISUP = ClassifierRecipe(
    epochs=20, batch_size=256, head_lr=1.0, network_lr=0.01, weight_decay=1e-4, decay_at=(0.6, 0.8), decay_by=0.2
)
"""Fine-tuning on a labelled part: 20 epochs as in DATA, table 4; the rest from OpenSelfSup's semi-supervised benchmark,
on which the authors' release builds, in the middle of the grid of learning rates that it searches."""


class Classifiers(LightningModule):
    """A linear classifier for each of several networks, all trained on the same images at once.

    Args:
        features: maps images (N, 3, H, W) to features (N, C) per network; a module's parameters are trained too,
            anything else is frozen.
        channels: C per network.
        classes: number of classes.
        recipe: hyper-parameters.
    """

    def __init__(
        self,
        features: Callable[[Tensor], Mapping[Arch, Tensor]],
        channels: Mapping[Arch, int],
        classes: int,
        recipe: ClassifierRecipe,
    ) -> None:
        super().__init__()
        self.features = features
        self.recipe = recipe
        self.heads = nn.ModuleDict({str(arch): _head(width, classes) for arch, width in channels.items()})
        accuracies = MetricCollection(
            {f"top{k}": MulticlassAccuracy(classes, top_k=min(k, classes), average="micro") for k in (1, 5)}
        )
        self.accuracies = nn.ModuleDict({name: accuracies.clone() for name in self.heads})

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The sum of the classifiers' losses; none of them moves another."""
        images, labels = batch
        losses = torch.stack([F.cross_entropy(logits, labels) for logits in self._logits(images).values()])
        if not torch.isfinite(losses).all():
            raise UserError(
                f"the loss is {losses.sum().item()} at step {self.global_step}; lower the learning rate "
                f"({self.recipe.head_lr:g} for the classifier, {self.recipe.network_lr:g} for the network)"
            )
        self.log("loss", losses.mean(), prog_bar=True)
        return losses.sum()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count right guesses."""
        images, labels = batch
        for name, logits in self._logits(images).items():
            cast(MetricCollection, self.accuracies[name]).update(logits, labels)

    def computed_accuracies(self) -> dict[Arch, Accuracy]:
        """What the validation steps so far came to."""
        found = {}
        for name, metrics in self.accuracies.items():
            values = cast(MetricCollection, metrics).compute()
            found[Arch.parse(name)] = Accuracy(values["top1"].item(), values["top5"].item())
        return found

    def configure_optimizers(self) -> Any:
        """SGD, the learning rates falling in steps at the ends of epochs."""
        recipe = self.recipe
        groups: list[dict[str, Any]] = [{"params": list(self.heads.parameters()), "lr": recipe.head_lr}]
        if isinstance(self.features, nn.Module):
            groups.append({"params": list(self.features.parameters()), "lr": recipe.network_lr})
        optimizer = SGD(groups, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
        milestones = [round(part * recipe.epochs) for part in recipe.decay_at]
        return [optimizer], [MultiStepLR(optimizer, milestones, recipe.decay_by)]

    def _logits(self, images: Tensor) -> dict[str, Tensor]:
        return {str(arch): self.heads[str(arch)](found) for arch, found in self.features(images).items()}


def fit(
    classifiers: Classifiers,
    train: DataLoader[Any],
    val: DataLoader[Any],
    folder: Path,
    run: Mapping[str, Any],
    device: torch.device,
    resume: bool = False,
) -> dict[Arch, Accuracy]:
    """Train classifiers and measure them once, at the end.

    Args:
        classifiers: what is trained.
        train: images and labels.
        val: images and labels of the measurement.
        folder: where the checkpoint is written after each epoch.
        run: settings, as JSON values, that a resumed training must share.
        device: where to train.
        resume: go on from the checkpoint in ``folder``; a finished training is only measured.

    Raises:
        UserError: if there is nothing to resume or it has other settings, or the loss is not finite.
    """
    run = {**run, **dataclasses.asdict(classifiers.recipe)}
    checkpoint = folder / CHECKPOINT
    if resume:
        _require_same_run(checkpoint, run)
    trainer = Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index or 0] if device.type == "cuda" else 1,
        max_epochs=classifiers.recipe.epochs,
        default_root_dir=folder,
        logger=False,
        callbacks=[
            ModelCheckpoint(folder, checkpoint.stem, save_on_train_epoch_end=True, enable_version_counter=False),
            RichProgressBar(),
            _RunSettings(run),
        ],
        plugins=[_WholeFiles()],
        use_distributed_sampler=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        warnings.filterwarnings("ignore", message="`isinstance.treespec, LeafSpec", category=FutureWarning)
        warnings.filterwarnings("ignore", message="The '.*_dataloader' does not have many workers")
        warnings.filterwarnings("ignore", message="You defined a `validation_step` but have no `val_dataloader`")
        trainer.fit(classifiers.train(), train, ckpt_path=checkpoint if resume else None, weights_only=True)
        trainer.validate(classifiers, val, verbose=False)
    return classifiers.computed_accuracies()


class _RunSettings(Callback):
    """Keeps in the checkpoint what it is a checkpoint of."""

    def __init__(self, run: Mapping[str, Any]) -> None:
        self.run = run

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[_RUN] = self.run


class _WholeFiles(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, on the file system that they shall be on."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        write_whole(Path(path), lambda temporary: torch.save(checkpoint, temporary))


def _head(channels: int, classes: int) -> nn.Linear:
    """A classifier as MoCo's evaluation starts it."""
    head = nn.Linear(channels, classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


def _require_same_run(checkpoint: Path, run: Mapping[str, Any]) -> None:
    if not checkpoint.is_file():
        raise UserError(f"there is nothing to resume: {checkpoint} does not exist; leave out --resume")
    contents, _ = read_tensors(checkpoint)
    before = contents.get(_RUN, {})
    for name, value in run.items():
        if before.get(name) != value:
            raise UserError(
                f"{checkpoint} was trained with {name} {before.get(name)}, not {value}; "
                "resume with the same settings, or start again with --overwrite"
            )
