"""What one step of supernet pre-training does: DATA's Algorithm 1 as a Lightning module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightly.models.utils import get_weight_decay_parameters, update_momentum
from lightly.utils.lars import LARS
from lightly.utils.scheduler import CosineWarmupScheduler, cosine_schedule
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.backbones.grouped import Path as Route
from data_plugin.backbones.routed_resnet import RoutedResNet
from data_plugin.pretrain.augmentation import Colours
from data_plugin.pretrain.recipe import Recipe
from data_plugin.pretrain.shuffled_keys import Shuffle
from data_plugin.pretrain.teacher import FrozenTeacher
from data_plugin.pretrain.views import Batch
from data_plugin.space.arch import Arch
from data_plugin.space.search_space import SearchSpace
from data_plugin.supernet.checkpoint import RoutedSupernet, Supernet, SupernetInfo
from data_plugin.supernet.foreign_weights import BackboneWeights
from data_plugin.supernet.initialise import Started, start_from
from data_plugin.utils.errors import UserError

ADAMW_BETA = 0.98
"""What AdamW keeps of a gradient's square: fewer steps than its usual thousand, for trainings of a few thousand."""


class SupernetTraining(LightningModule):
    """Both branches of a supernet, and what one step does with them (DATA, Algorithm 1).

    In each step the key branch, always the largest network, sees the images once; two random networks and the largest
    of the query branch are trained on the sum of their losses in one optimiser step; then the key branch's weights
    move towards the query branch's, once. The recipe's ``teacher`` and ``sampler`` change which networks these are.

    Args:
        space: the search space.
        recipe: method and hyper-parameters.
        steps: number of steps of the whole training, for the learning rate's schedule.
        seed: seed of the random networks.
        with_cp: recompute blocks in the backward pass instead of keeping their activations.
        build: makes a branch of a space.

    Attributes:
        colours: what makes views of the batches' crops; without it the batches hold whole views.
        teacher: a frozen network that takes the key branch's place as a teacher; the batches then hold clean images.
    """

    colours: Colours | None
    teacher: FrozenTeacher | None

    def __init__(
        self,
        space: SearchSpace,
        recipe: Recipe,
        steps: int,
        seed: int,
        with_cp: bool = False,
        build: Callable[..., DynamicResNet | RoutedResNet] = DynamicResNet,
    ) -> None:
        super().__init__()
        self.space = space
        self.recipe = recipe
        self.steps = steps
        self.seed = seed
        self.colours = None
        self.teacher = None
        self.method = recipe.build_method(space.largest.out_channels[-1])
        self.query: Any = build(space, with_cp=with_cp)
        self.key: Any = build(space).requires_grad_(False)
        self.key.load_state_dict(self.query.state_dict())

    def start_from(self, source: BackboneWeights) -> Started:
        """Give both branches the function of given weights, see :func:`start_from`."""
        started = start_from(self.query, source)
        self.key.load_state_dict(self.query.state_dict())
        return started

    def supernet(self, info: SupernetInfo) -> Supernet | RoutedSupernet:
        """What has been trained, for its file."""
        return Supernet(info, self.query, self.key, self.method.heads())

    def networks(self, step: int) -> list[Arch]:
        """The query networks of a step, the largest first: the same for the same seed and step.

        In a space of one network it is that one, once, and in a slow start the largest alone.
        """
        if len(self.space) == 1 or step < round(self.recipe.slow_start * self.steps):
            return [self.space.largest]
        generator = np.random.default_rng((self.seed, step))
        if self.recipe.sampler == "sandwich":
            return [self.space.largest, self.space.smallest, self.space.draw(generator)]
        return [self.space.largest, self.space.draw(generator), self.space.draw(generator)]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The summed loss of the step's query networks, the mean over the images of all sub-nets.

        They share one backward pass, and with it one reduction of the gradients over all processes.
        """
        if self.colours is not None:
            views = self.colours(batch.views, seed=(self.seed, batch_idx, self.global_rank))
            batch = batch._replace(views=views)
        archs = self.networks(self.global_step)
        parts = [self._compare(part, archs, batch_idx, *route) for part, route in batch.parts()]
        for part in parts:
            for target in part.targets:
                self.method.remember(target)
        shares = [part.images / len(batch.views[0]) for part in parts]
        loss = _mean([part.losses for part in parts], shares)
        self._require_finite(loss)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            health = [self.method.health(part.predictions[0], part.targets[0]) for part in parts]
            self._log(loss, {name: _mean([each[name] for each in health], shares) for name in health[0]})
        return loss[0] + self.recipe.others_weight * loss[1:].sum()

    def _compare(self, batch: Batch, archs: Sequence[Arch], batch_idx: int, *route: Route) -> _Compared:
        """What the networks of one sub-net make of its images; without sub-nets there is no route to one."""
        # Twice as fast on CPUs and in half precision on GPUs.
        views = [view.contiguous(memory_format=torch.channels_last) for view in batch.views]
        shuffle = self._shuffle(len(views[0]), batch_idx)
        with torch.no_grad():
            teachers = archs if self._teacher_follows else archs[:1]
            targets = [self._targets(batch, views, shuffle, arch, *route) for arch in teachers]
        predictions = [self._predictions(views, arch, *route) for arch in archs]
        with torch.autocast(self.device.type, enabled=False):
            return _Compared(len(views[0]), self._losses(predictions, targets), predictions, targets)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step of the optimiser, then one of the key branch's moving average."""
        momentum = self.key_momentum(self.global_step)
        super().optimizer_step(*args, **kwargs)
        update_momentum(self.query, self.key, momentum)
        update_momentum(self.method.query_head, self.method.key_head, momentum)

    def key_momentum(self, step: int) -> float:
        """What the key branch keeps of itself in a step."""
        start, end = self.recipe.key_momentum, self.recipe.key_momentum_end
        return start if end is None else cosine_schedule(step, self.steps, start, end)

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser, with the learning rate's warm-up and cosine per step."""
        recipe = self.recipe
        decayed, others = get_weight_decay_parameters([self], recipe.decay_norms, recipe.decay_norms)
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        groups = [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups]
        build: Callable[..., Optimizer] = {"sgd": SGD, "lars": LARS, "adamw": AdamW}[recipe.optimizer]
        momentum = {"betas": (recipe.momentum, ADAMW_BETA)} if build is AdamW else {"momentum": recipe.momentum}
        optimizer = build(
            [group for group in groups if group["params"]],
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            **momentum,
        )
        schedule = CosineWarmupScheduler(
            optimizer, warmup_epochs=round(recipe.warmup * self.steps), max_epochs=self.steps, end_value=0.0
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to replace a good checkpoint by weights that are lost."""
        lost = [name for name, value in checkpoint["state_dict"].items() if not torch.isfinite(value).all()]
        if lost:
            raise self.diverged(f"{lost[0]} is not finite after step {self.global_step}")

    def diverged(self, what: str) -> UserError:
        """The error that stops a training which has lost its way: what was seen, the last good checkpoint, advice."""
        path = Path(getattr(self.trainer.checkpoint_callback, "best_model_path", ""))
        good = f"the last good checkpoint is {path}" if path.is_file() else "there is no checkpoint yet"
        wider = "" if self.trainer.scaler is None else ", or train in bf16, whose range is as wide as that of fp32"
        return UserError(f"{what}; {good}; lower the learning rate ({self.recipe.lr}) or lengthen the warm-up{wider}")

    @property
    def _teacher_follows(self) -> bool:
        return self.recipe.teacher == "same-arch"

    def _shuffle(self, images: int, batch_idx: int) -> Shuffle | None:
        if self.recipe.norm_statistics == "synced":
            return None
        return Shuffle.draw(images, seed=(self.seed, batch_idx, 1))

    def _targets(self, batch: Batch, views: Sequence[Tensor], shuffle: Shuffle | None, *network: Any) -> Any:
        if self.teacher is not None and batch.clean is not None:  # its batch norms see no batch
            return self.method.targets([self.teacher(batch.clean, view) for view in self.method.key_views])
        images = [views[view] for view in self.method.key_views]
        if shuffle is None:
            return self.method.targets([self.key(each, *network)[-1] for each in images])
        images = [shuffle(each).contiguous(memory_format=torch.channels_last) for each in images]
        targets = self.method.targets([self.key(each, *network)[-1] for each in images])
        return self.method.reordered(targets, shuffle.back)

    def _predictions(self, views: Sequence[Tensor], *network: Any) -> Any:
        maps = [self.query(views[view], *network) for view in self.method.query_views]
        return self.method.predictions([of_view[tap] for of_view in maps for tap in self.method.query_taps])

    def _losses(self, predictions: Sequence[Any], targets: Sequence[Any]) -> Tensor:
        """The loss of every query network, the largest's first."""
        if self.recipe.guide == "largest":
            largest, *others = predictions
            guided = [self.method.imitation(other, largest, targets[0]) for other in others]
            return torch.stack([self.method.loss(largest, targets[0]), *guided])
        pairs = zip(predictions, [*targets] * (len(predictions) // len(targets)), strict=True)
        return torch.stack([self.method.loss(*pair) for pair in pairs])

    def _log(self, loss: Tensor, health: Any) -> None:
        every: dict[str, Any] = {"sync_dist": True, "batch_size": 1}
        self.log("loss", loss.mean(), prog_bar=True, **every)
        if len(loss) > 1:
            self.log("loss/largest", loss[0], **every)
            self.log("loss/others", loss[1:].mean(), **every)
        self.log_dict(dict(health), prog_bar=True, **every)

    def _require_finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss).all():
            raise self.diverged(f"the loss is {loss.sum().item()} at step {self.global_step}")


class _Compared(NamedTuple):
    """What a step makes of the images of one sub-net.

    Args:
        images: how many there are.
        losses: of each query network, the largest's first.
        predictions: of each query network.
        targets: of each key network.
    """

    images: int
    losses: Tensor
    predictions: list[Any]
    targets: list[Any]


def _mean(values: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """The mean of values that have these shares in it."""
    return torch.stack([share * value for value, share in zip(values, shares, strict=True)]).sum(dim=0)
