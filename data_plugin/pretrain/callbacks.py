"""What happens beside a pre-training's steps: progress, unreadable images, checkpoints that are whole."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from data_plugin.pretrain.views import Batch
from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole
from data_plugin.utils.ranks import from_all

RUN = "pretraining"
"""Where a checkpoint says what it is a checkpoint of."""

LEAST_LOSS_SCALE = 1e-4
"""A loss scale that a training in half precision only comes to by overflowing again and again; as in fairseq."""


class Bar(RichProgressBar):
    """A progress bar that shows what is logged and not the loggers' folder."""

    def get_metrics(self, trainer: Trainer, pl_module: Any) -> dict[str, Any]:
        """See :class:`RichProgressBar`."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}


class Speed(Callback):
    """Logs epoch, learning rate, images per second over the last steps, and the part of the time without images.

    Args:
        images: number of images of an epoch.
        batch_size: images per step, over all processes.
        micro_batches: accumulated batches per step.
        over: number of steps that a figure is taken over.
    """

    def __init__(self, images: int, batch_size: int, micro_batches: int, over: int) -> None:
        self.images = images
        self.batch_size = batch_size
        self.micro_batches = micro_batches
        self.ends: deque[float] = deque(maxlen=over * micro_batches + 1)
        self.waits: deque[float] = deque(maxlen=over * micro_batches)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        """Note how long the batch was waited for."""
        if self.ends:
            self.waits.append(time.perf_counter() - self.ends[-1])

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log."""
        self.ends.append(time.perf_counter())
        pl_module.log("epoch", trainer.global_step * self.batch_size / self.images)
        pl_module.log("lr", trainer.optimizers[0].param_groups[0]["lr"])
        if len(self.ends) > 1:
            elapsed = self.ends[-1] - self.ends[0]
            images = self.batch_size / self.micro_batches * (len(self.ends) - 1)
            pl_module.log("images/s", images / elapsed, prog_bar=True)
            pl_module.log("waiting", sum(self.waits) / elapsed)


class LossScale(Callback):
    """Logs the loss scale of half precision, and stops a training that it cannot help.

    A step whose gradients overflow leaves weights and momentum alone and halves the scale. It counts as a step all the
    same: the learning rate, the key branch's average and the queue go on, and no image is seen again.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log it, and stop where no scale is small enough."""
        if trainer.scaler is None:
            return
        scale = trainer.scaler.get_scale()
        pl_module.log("loss_scale", scale)
        if scale < LEAST_LOSS_SCALE:
            raise pl_module.diverged(
                f"no loss scale keeps the gradients finite, down to {scale:g} at step {trainer.global_step}"
            )


class Unreadable(Callback):
    """Counts images that cannot be read, and stops the training where there are too many.

    Args:
        limit: how many there may be.
        images: number of all images.

    Attributes:
        names: the images so far.
    """

    def __init__(self, limit: int, images: int) -> None:
        self.limit = limit
        self.images = images
        self.names: set[str] = set()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        """Count those of a batch, in whose place others stand."""
        self.names.update(batch.unreadable)
        if len(self.names) == self.images:
            raise UserError(f"none of the {self.images} images can be read; expected whole image files")
        if len(self.names) > self.limit:
            shown = ", ".join(sorted(self.names)[:3])
            raise UserError(
                f"{len(self.names)} of {self.images} images cannot be read ({shown}{', …' * (len(self.names) > 3)}), "
                f"more than the {self.limit} allowed; replace or remove them, or allow more with --max-unreadable"
            )

    def state_dict(self) -> dict[str, Any]:
        """The names that all processes met, for a checkpoint."""
        return {"names": self.everywhere()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's names."""
        self.names = set(state_dict["names"])

    def everywhere(self) -> list[str]:
        """The names that all processes met."""
        return sorted(set().union(*from_all(self.names)))


class RunSettings(Callback):
    """Keeps in every checkpoint what it is a checkpoint of.

    Args:
        run: the settings, JSON values.
    """

    def __init__(self, run: Mapping[str, Any]) -> None:
        self.run = run

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the settings."""
        checkpoint[RUN] = self.run


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, on the file system that they shall be on."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Replace the earlier checkpoint in one step; where that fails, it stays as it was.

        Raises:
            UserError: if the file cannot be written.
        """
        path = Path(path)
        try:
            write_whole(path, lambda temporary: torch.save(checkpoint, temporary))
        # torch reports a full disk as a RuntimeError.
        except (OSError, RuntimeError) as error:
            kept = f"the earlier {path} is kept" if path.exists() else "there is no earlier one"
            reason = str(error).splitlines()[0]
            raise UserError(
                f"the checkpoint {path} of step {checkpoint['global_step']} cannot be written ({reason}); {kept}; "
                "make room, then go on with --resume"
            ) from error
