"""What pre-training does beside its steps where sub-nets each see one part of the data: it opens groups."""

from __future__ import annotations

from functools import partial
from typing import Any

from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.backbones.routed_resnet import RoutedResNet
from data_plugin.pretrain.phases import Phases
from data_plugin.pretrain.recipe import Recipe
from data_plugin.pretrain.step import SupernetTraining
from data_plugin.pretrain.views import Batch
from data_plugin.space.search_space import SearchSpace
from data_plugin.supernet.checkpoint import RoutedSupernet, SupernetInfo
from data_plugin.supernet.foreign_weights import BackboneWeights
from data_plugin.supernet.initialise import Started, start_from


class RoutedTraining(SupernetTraining):
    """A training of sub-nets (SDR, in our form): each step trains those whose images are in its batch.

    The batches say of each image which sub-net it trains; the key branch is the same sub-net's average. Before the
    first step of a phase the groups of one more level open, in both branches and in the optimiser's state, as copies of
    the one that was trained so far: that step has the loss that it would have had without. Heads are shared.

    Args:
        space: the search space of every sub-net.
        recipe: method and hyper-parameters.
        phases: when which groups open.
        steps: number of steps of the whole training.
        seed: seed of the random networks.
        with_cp: recompute blocks in the backward pass instead of keeping their activations.
    """

    def __init__(
        self, space: SearchSpace, recipe: Recipe, phases: Phases, steps: int, seed: int, with_cp: bool = False
    ) -> None:
        build = partial(RoutedResNet, groups=phases.children, levels=phases.levels)
        super().__init__(space, recipe, steps, seed, with_cp, build)
        self.phases = phases

    def start_from(self, source: BackboneWeights) -> Started:
        """Give all sub-nets of both branches the function of given weights, see :func:`start_from`."""
        plain = DynamicResNet(self.space)
        started = start_from(plain, source)
        for branch in (self.query, self.key):
            branch.copy_from(plain)
        return started

    def supernet(self, info: SupernetInfo) -> RoutedSupernet:
        """See :meth:`SupernetTraining.supernet`."""
        return RoutedSupernet(info, self.query, self.key, self.method.heads())

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Open the groups of the phase that begins here, and say how many sub-nets there are."""
        step, part = divmod(batch_idx, self.trainer.accumulate_grad_batches)
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        for level in self.phases.opened_at(step) if part == 0 else []:
            self.query.open_groups(level, optimizer.state)
            self.key.open_groups(level)
        self.log("sub-nets", float(self.phases.sub_nets(self.phases.at(step))), batch_size=1)
