"""What one step of supernet pre-training does: DATA's Algorithm 1 as a Lightning module."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightly.models.utils import update_momentum
from lightly.utils.scheduler import CosineWarmupScheduler
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import SGD

from data_plugin.arch import Arch
from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.errors import UserError
from data_plugin.pretrain.method import Method
from data_plugin.pretrain.recipe import Recipe
from data_plugin.pretrain.views import Batch
from data_plugin.space import SearchSpace

RANDOM_NETWORKS = 2
"""Random query networks of a step, beside the largest."""


class SupernetTraining(LightningModule):
    """Both branches of a supernet, and what one step does with them (DATA, Algorithm 1).

    In each step the key branch, always the largest network, sees the images once; two random networks and the largest
    of the query branch are trained on the sum of their losses in one optimiser step; then the key branch's weights
    move towards the query branch's, once.

    Args:
        space: the search space.
        method: the self-supervised method.
        recipe: hyper-parameters.
        steps: number of steps of the whole training, for the learning rate's schedule.
        seed: seed of the random networks.
        skip_unreadable: go on when an image cannot be read.

    Attributes:
        unreadable: names of the images that could not be read.
    """

    def __init__(
        self, space: SearchSpace, method: Method, recipe: Recipe, steps: int, seed: int, skip_unreadable: bool = False
    ) -> None:
        super().__init__()
        self.space = space
        self.method = method
        self.recipe = recipe
        self.steps = steps
        self.seed = seed
        self.skip_unreadable = skip_unreadable
        self.unreadable: set[str] = set()
        self.query = DynamicResNet(space)
        self.key = DynamicResNet(space).requires_grad_(False)
        self.key.load_state_dict(self.query.state_dict())

    def networks(self, step: int) -> list[Arch]:
        """The query networks of a step: the largest and two random ones, the same for the same seed and step."""
        generator = np.random.default_rng((self.seed, step))
        return [self.space.largest, *(self.space.draw(generator) for _ in range(RANDOM_NETWORKS))]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The summed loss of the step's query networks."""
        del batch_idx
        self._note_unreadable(batch)
        with torch.no_grad():
            key_maps = [self.key(batch.views[view], self.space.largest)[-1] for view in self.method.key_views]
            targets = self.method.targets(key_maps)
        predictions = [
            self.method.predictions([self.query(batch.views[view], arch)[-1] for view in self.method.query_views])
            for arch in self.networks(self.global_step)
        ]
        loss = torch.stack([self.method.loss(prediction, targets) for prediction in predictions])
        self.method.remember(targets)
        self._require_finite(loss)
        self.log("loss", loss.mean(), prog_bar=True)
        self.log("loss/largest", loss[0])
        self.log("loss/random", loss[1:].mean())
        with torch.no_grad():
            self.log_dict(dict(self.method.health(predictions[0], targets)), prog_bar=True)
        return loss.sum()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step of the optimiser, then one of the key branch's moving average."""
        super().optimizer_step(*args, **kwargs)
        update_momentum(self.query, self.key, self.recipe.key_momentum)
        update_momentum(self.method.query_head, self.method.key_head, self.recipe.key_momentum)

    def configure_optimizers(self) -> Any:
        """SGD, with the learning rate's warm-up and cosine per step."""
        recipe = self.recipe
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = SGD(trained, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
        schedule = CosineWarmupScheduler(
            optimizer, warmup_epochs=round(recipe.warmup * self.steps), max_epochs=self.steps, end_value=0.0
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the names of unreadable images."""
        checkpoint["unreadable"] = sorted(self.unreadable)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the names of unreadable images."""
        self.unreadable = set(checkpoint["unreadable"])

    def _note_unreadable(self, batch: Batch) -> None:
        self.unreadable.update(batch.unreadable)
        if batch.unreadable and not self.skip_unreadable:
            raise UserError(
                f"the image {batch.unreadable[0]} cannot be read; replace or remove it, "
                "or skip unreadable images with --skip-unreadable"
            )
        if not batch.views:
            raise UserError(f"none of the {len(self.unreadable)} images can be read; expected whole image files")

    def _require_finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss).all():
            raise UserError(
                f"the loss is {loss.sum().item()} at step {self.global_step}; "
                f"lower the learning rate ({self.recipe.lr}) or lengthen the warm-up"
            )
