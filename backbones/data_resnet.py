"""One network of the supernet as plain modules: what a detector or segmenter is fine-tuned with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from data_plugin.backbones.bottleneck import Bottleneck, Norm, initialise, make_stage
from data_plugin.backbones.freezing import freeze_norm_statistics, freeze_stages
from data_plugin.backbones.pretrained import read_pretrained
from data_plugin.space.arch import STAGES, Arch
from data_plugin.space.cost import STRIDES
from data_plugin.utils.errors import UserError


class DATAResNet(nn.Module):
    """A bottleneck ResNet of any stem width, stage widths and depths, with torchvision's parameter names.

    With :meth:`Arch.resnet50` it is torchvision's ``resnet50`` without the classifier.

    Args:
        arch: the architecture, or a string or mapping that :meth:`Arch.parse` reads.
        out_indices: which stages' feature maps the network returns, 0 to 3 for C2 to C5.
        num_stages: how many stages are built; 3 for detectors that keep stage 4 in their RoI head.
        strides: strides of the four stages.
        dilations: dilations of the 3x3 convolutions of the four stages.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and stages 1 to n.
        norm: makes a norm layer for a number of channels.
        norm_eval: keep batch-norm statistics fixed in training.
        with_cp: recompute blocks in the backward pass instead of keeping their activations.
        in_channels: channels of the images.
        zero_init_residual: start every residual branch at zero; without effect on loaded weights.
        contract_dilation: halve the dilation of every stage's first bottleneck.

    Raises:
        UserError: if ``out_indices``, ``frozen_stages`` or ``num_stages`` name a stage that is not built.
    """

    def __init__(
        self,
        arch: Arch | str | Mapping[str, Any],
        out_indices: Sequence[int] = (0, 1, 2, 3),
        num_stages: int = STAGES,
        strides: Sequence[int] = STRIDES,
        dilations: Sequence[int] = (1, 1, 1, 1),
        frozen_stages: int = -1,
        norm: Norm = nn.BatchNorm2d,
        norm_eval: bool = False,
        with_cp: bool = False,
        in_channels: int = 3,
        zero_init_residual: bool = False,
        contract_dilation: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= num_stages <= STAGES:
            raise UserError(f"num_stages is {num_stages}; expected 1 to {STAGES}")
        if not out_indices or not all(0 <= index < num_stages for index in out_indices):
            raise UserError(
                f"out_indices is {list(out_indices)}; with {num_stages} stages expected 0 to {num_stages - 1}"
            )
        if not -1 <= frozen_stages <= num_stages:
            raise UserError(f"frozen_stages is {frozen_stages}; with {num_stages} stages expected -1 to {num_stages}")
        self.arch = Arch.parse(arch)
        self.out_indices = tuple(sorted(set(out_indices)))
        self.num_stages = num_stages
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.conv1 = nn.Conv2d(in_channels, self.arch.stem, 7, 2, padding=3, bias=False)
        self.bn1 = norm(self.arch.stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        incoming = self.arch.stem
        for index in range(num_stages):
            width, depth = self.arch.width[index], self.arch.depth[index]
            stage = make_stage(
                incoming, width, depth, strides[index], dilations[index], norm, with_cp, contract_dilation
            )
            self.add_module(f"layer{index + 1}", stage)
            incoming = self.arch.out_channels[index]
        self._returned = {f"layer{index + 1}": index in self.out_indices for index in range(num_stages)}
        initialise(self)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, Bottleneck):
                    nn.init.zeros_(module.bn3.weight)  # type: ignore[arg-type]
        freeze_stages(self, frozen_stages)

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Self:
        """A network with the weights that a search found or that were taken out of a fine-tuned model.

        Args:
            source: a winner's folder, or a ``.safetensors`` or ``.pth`` file of weights in torchvision's names. Its
                architecture is the one in ``arch.json`` beside it, else in the file's header, else that of the weights.
            options: further arguments of the class.

        Returns:
            The network in evaluation mode, on the CPU.

        Raises:
            UserError: if there are no weights, they cannot be read safely, are not finite, or are not exactly those of
                the network; stages that the options leave out may be in the file.
        """
        pretrained = read_pretrained(Path(source))
        network = cls(pretrained.arch, **options)
        pretrained.load_into(network, left_out=[f"layer{index + 1}" for index in range(network.num_stages, STAGES)])
        return network.eval()

    # Without a return type: TorchScript knows none for tuples of any length, and finds out how long this one is.
    def forward(self, x: Tensor):  # type: ignore[no-untyped-def]
        """Map images (N, 3, H, W) to a tuple of the feature maps named by ``out_indices``, in that order of depth."""
        maps = self.feature_maps(x)
        returned = ()
        for position, _ in enumerate(self.out_indices):
            returned = (*returned, maps[position])  # type: ignore[assignment]
        return returned

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """What :meth:`forward` returns, as a list: for subclasses that return it in another form."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps: list[Tensor] = []
        # TorchScript can walk over all children, but not look up one whose name is put together.
        for name, child in self.named_children():
            if name in self._returned:
                x = child(x)
                if self._returned[name]:
                    maps.append(x)
        return maps

    def train(self, mode: bool = True) -> DATAResNet:
        """Set training or evaluation mode; frozen stages, and with ``norm_eval`` all norms, stay in evaluation."""
        super().train(mode)
        freeze_stages(self, self.frozen_stages)
        if mode and self.norm_eval:
            freeze_norm_statistics(self)
        return self
