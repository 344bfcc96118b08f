"""Batch norms whose statistics are those of the whole batch, over all processes that train together."""

from __future__ import annotations

import torch
from lightly.utils import dist
from torch import Tensor, nn

from data_plugin.backbones.sliced import SlicedBatchNorm2d
from data_plugin.pretrain.methods.method import precise


class SyncedBatchNorm(SlicedBatchNorm2d):
    """A batch norm that, in training, normalises with the statistics of all processes' batches.

    torch's own does not run on a CPU, and has no first channels. Every process has to give a batch of the same size.
    Without several processes it is a :class:`SlicedBatchNorm2d`. It does not do what MoCo's shuffling of keys does: a
    query and its key are still normalised with statistics of the same images, and the keys in the queue with those of
    other batches. For shuffling see :class:`Shuffle`.
    """

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Normalise ``x`` (N, C) or (N, C, H, W) with the C channels from ``start`` on."""
        if not self.training or dist.world_size() == 1:
            return super().forward(x, start)
        used = slice(start, start + x.shape[1])
        channels, dims = x.shape[1], [dim for dim in range(x.dim()) if dim != 1]
        values = precise(x)
        local_var, local_mean = torch.var_mean(values, dim=dims, unbiased=False)
        stacked = torch.stack(dist.gather(torch.stack([local_mean, local_var])))
        means, variances = stacked.unbind(dim=1)
        mean = means.mean(dim=0)
        var = (variances + (means - mean).square()).mean(dim=0)
        if self.track_running_stats:
            self._update(used, mean.detach(), var.detach(), dist.world_size() * x.numel() // channels)
        scale, shift = torch.rsqrt(var + self.eps), mean.new_zeros(())
        if self.affine:
            scale, shift = self.weight[used] * scale, self.bias[used]
        shift = shift - mean * scale
        shape = [1, channels, *[1] * (x.dim() - 2)]
        return (values * scale.view(shape) + shift.view(shape)).to(x.dtype)

    def _update(self, used: slice, mean: Tensor, var: Tensor, count: int) -> None:
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        unbiased = var * count / max(1, count - 1)
        for name, value in (("running_mean", mean), ("running_var", unbiased)):
            self.get_buffer(name)[used].lerp_(value, self.momentum or 0.0)


def synchronise(module: nn.Module) -> None:
    """Put a :class:`SyncedBatchNorm` of the same weights and statistics in the place of every batch norm below."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            synced = SyncedBatchNorm(child.num_features, child.eps, child.momentum, child.affine)
            synced.load_state_dict(child.state_dict())
            if child.affine:
                synced.requires_grad_(child.weight.requires_grad)
            setattr(module, name, synced.train(child.training))
        else:
            synchronise(child)
