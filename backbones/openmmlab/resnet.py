"""``DATAResNet`` as OpenMMLab's frameworks build it: norms from ``norm_cfg``, weights from ``init_cfg``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmcv.cnn import build_norm_layer
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from data_plugin.backbones.bottleneck import Norm
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.space.arch import STAGES, Arch
from data_plugin.space.cost import STRIDES
from data_plugin.utils.errors import UserError
from data_plugin.utils.tensor_files import read_tensors, require_matching

BATCH_NORM = {"type": "BN", "requires_grad": True}

NEUTRAL: Mapping[str, Any] = {
    "style": "pytorch",
    "deep_stem": False,
    "avg_down": False,
    "conv_cfg": None,
    "dcn": None,
    "stage_with_dcn": None,
    "plugins": None,
    "multi_grid": None,
    "pretrained": None,
}
"""Options of OpenMMLab's ResNets that have no counterpart here, and the value at which they change nothing."""


SCRIPT_LEAVES_OUT = ["is_init"]
"""Properties of MMEngine's ``BaseModule`` that TorchScript cannot compile and a deployed network does not need."""


class OpenMMLabResNet(DATAResNet, BaseModule):
    """:class:`DATAResNet` with the options of OpenMMLab's ResNet, registered as ``DATAResNet``.

    Args:
        arch: the architecture, or a string or mapping that :meth:`Arch.parse` reads.
        in_channels: channels of the images.
        num_stages: how many stages are built; 3 for detectors that keep stage 4 in their RoI head.
        strides: strides of the stages that are built.
        dilations: dilations of the 3x3 convolutions of the stages that are built.
        out_indices: which stages' feature maps the network returns, 0 to 3 for C2 to C5.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and stages 1 to n.
        norm_cfg: the norm layer, such as ``dict(type="SyncBN", requires_grad=True)``.
        norm_eval: keep batch-norm statistics fixed in training; MMDetection's default, not MMSegmentation's.
        with_cp: recompute blocks in the backward pass instead of keeping their activations.
        zero_init_residual: start every residual branch at zero; without effect on loaded weights.
        contract_dilation: halve the dilation of every stage's first bottleneck, as MMSegmentation's option.
        init_cfg: ``dict(type="Pretrained", checkpoint=FILE)`` loads a file in torchvision's names strictly;
            anything else is left to the framework; None keeps He's initialisation.
        unsupported: the options of :data:`NEUTRAL`, at values that change nothing.

    Raises:
        UserError: if an option cannot be honoured, or (in ``init_weights``) the file does not hold these weights.
    """

    __jit_unused_properties__: ClassVar = SCRIPT_LEAVES_OUT

    def __init__(
        self,
        arch: Arch | str | Mapping[str, Any],
        in_channels: int = 3,
        num_stages: int = STAGES,
        strides: Sequence[int] = STRIDES,
        dilations: Sequence[int] = (1, 1, 1, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_cfg: Mapping[str, Any] = BATCH_NORM,
        norm_eval: bool = True,
        with_cp: bool = False,
        zero_init_residual: bool = True,
        contract_dilation: bool = False,
        init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        **unsupported: Any,
    ) -> None:
        refuse_options("DATAResNet", unsupported)
        for name, values in (("strides", strides), ("dilations", dilations)):
            if len(values) < num_stages:
                raise UserError(f"{name} is {list(values)}; with {num_stages} stages expected {num_stages} numbers")
        super().__init__(
            arch,
            out_indices=out_indices,
            num_stages=num_stages,
            strides=strides,
            dilations=dilations,
            frozen_stages=frozen_stages,
            norm=norm_from(norm_cfg),
            norm_eval=norm_eval,
            with_cp=with_cp,
            in_channels=in_channels,
            zero_init_residual=zero_init_residual,
            contract_dilation=contract_dilation,
        )
        self.init_cfg = init_cfg

    def init_weights(self) -> None:
        """Load the weights that ``init_cfg`` names; other stages than the network's may be in the file too.

        Raises:
            UserError: if the file lacks one of the network's weights, or holds it in another shape.
        """
        path = pretrained_file(self.init_cfg)
        if path is None:
            super().init_weights()
            return
        elsewhere = {f"layer{stage}" for stage in range(self.num_stages + 1, STAGES + 1)}
        load_pretrained(self, path, f"the weights of {self.arch}", lambda part: part not in elsewhere)
        self.is_init = True


def norm_from(norm_cfg: Mapping[str, Any]) -> Norm:
    """What makes the norm layer that ``norm_cfg`` describes for a number of channels."""

    def norm(channels: int) -> nn.Module:
        return build_norm_layer(dict(norm_cfg), channels)[1]

    return norm


def refuse_options(name: str, options: Mapping[str, Any]) -> None:
    """Check that options without a counterpart here are at the value that changes nothing.

    Args:
        name: what the options were given to, for the message.
        options: what is left over of a config entry.

    Raises:
        UserError: naming the first option that would have to change the network.
    """
    for option, value in options.items():
        if option == "stage_with_dcn" and not any(value or ()):
            continue
        if option not in NEUTRAL or value != NEUTRAL[option]:
            raise UserError(
                f"{name} cannot honour {option}={value!r}: its layers are a plain ResNet's and follow from arch alone; "
                f"remove {option}"
            )


def pretrained_file(init_cfg: Any) -> str | None:
    """The file of weights, or the name that MMEngine knows one by, in ``init_cfg``; None where it names none.

    Raises:
        UserError: if it says more than the file, or names it beside another initialisation.
    """
    entries = [init_cfg] if isinstance(init_cfg, Mapping) else list(init_cfg or ())
    if not any(entry.get("type") == "Pretrained" for entry in entries):
        return None
    if len(entries) > 1:
        raise UserError("init_cfg has a Pretrained entry beside others; give that entry alone, it sets all weights")
    unknown = set(entries[0]) - {"type", "checkpoint", "map_location"}
    if unknown:
        raise UserError(f"init_cfg has {', '.join(sorted(unknown))}; expected type='Pretrained' and checkpoint alone")
    return str(entries[0]["checkpoint"])


def load_pretrained(module: nn.Module, source: str, what: str, takes: Callable[[str], bool]) -> None:
    """Load weights in torchvision's names into a module that has the same ones, and log how many.

    Args:
        module: gets the weights.
        source: the file, or a name or address of a ResNet that MMEngine downloads, such as ``torchvision://resnet50``;
            its classifier ``fc`` is left out.
        what: what is loaded, for the message.
        takes: whether the first part of a name, such as ``layer4``, is this module's to load.

    Raises:
        UserError: if the file cannot be read, or one of the names that ``takes`` picks is missing, unexpected or of
            another shape.
    """
    tensors = _downloaded(source) if "://" in source else read_tensors(Path(source))[0]
    taken = {name: value for name, value in tensors.items() if takes(name.split(".")[0])}
    expected = {name: value for name, value in module.state_dict().items() if takes(name.split(".")[0])}
    require_matching(source, taken, expected, what)
    module.load_state_dict(taken, strict=False)
    rest = sorted({name.split(".")[0] for name in tensors if name not in taken})
    left = f"; {len(tensors) - len(taken)} of {', '.join(rest)} are not for it" if rest else ""
    counts = f"{len(taken)} of {len(expected)} matched, none missing or unexpected"  # or it would have been refused
    print_log(f"{what} in {type(module).__name__}: {counts}, from {source}{left}", logger="current")


def _downloaded(name: str) -> Mapping[str, Tensor]:
    contents = CheckpointLoader.load_checkpoint(name, map_location="cpu")
    tensors = contents.get("state_dict", contents)
    return {key: value for key, value in tensors.items() if not key.startswith("fc.")}
