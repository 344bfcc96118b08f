"""detectron2's LazyConfigs: ``DATAResNet`` in the place of their ResNet."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import LazyCall
from detectron2.modeling.backbone import BasicStem, BottleneckBlock, ResNet
from detectron2.utils.registry import locate
from omegaconf import DictConfig

from data_plugin.backbones.detectron2.resnet import FEATURES, DATAResNet
from data_plugin.backbones.detectron2.roi_heads import Res5Stage
from data_plugin.backbones.detectron2.swap import FACEBOOKS_WEIGHTS, require_batch_norm, warn_of_changes
from data_plugin.backbones.detectron2.weights import BY_NAME_ENDINGS
from data_plugin.space.arch import RESNET_DEPTHS, Arch
from data_plugin.utils.errors import UserError

_PLAIN = {"_target_", "depth", "norm", "stride_in_1x1", "block_class"}
"""Options of ``ResNet.make_default_stages`` that a plain ResNet has."""


def lazy_with_data_resnet(
    config: DictConfig, arch: Arch | str | Mapping[str, Any] | None = None, weights: Path | None = None
) -> DictConfig:
    """A copy of a LazyConfig in which ``DATAResNet`` has taken the place of detectron2's ResNet.

    A stride in the 1x1 convolutions moves into the 3x3, and weights of detectron2's own networks are left out; a
    warning says so.

    Args:
        config: a LazyConfig as ``LazyConfig.load`` returns it, whose model has an FPN or a res5 in its RoI head.
        arch: the architecture, or a string or mapping that :meth:`Arch.parse` reads; None takes the ResNet's own.
        weights: a ``backbone.pth`` to start from, for ``train.init_checkpoint``; None leaves that.

    Raises:
        UserError: if there is no backbone, or it is not a plain ResNet of bottlenecks with batch norm.
    """
    cfg: Any = copy.deepcopy(config)
    model: Any = cfg.get("model") or {}
    backbone = model.get("backbone")
    if backbone is None:
        raise UserError(
            "the LazyConfig's model has no backbone; expected model.backbone to be a ResNet or an FPN on one"
        )
    has_pyramid = "bottom_up" in backbone
    resnet = backbone.bottom_up if has_pyramid else backbone
    own, norm = _plain_resnet(resnet)
    network = own if arch is None else Arch.parse(arch)
    replacement = LazyCall(DATAResNet)(
        arch=str(network),
        out_features=list(resnet.out_features),
        freeze_at=resnet.get("freeze_at", 0),
        norm=norm,
    )
    if has_pyramid:
        backbone.bottom_up = replacement
        _fit_top_block(backbone, network)
    else:
        _fit_c4(model, network, norm)
        model.backbone = replacement
    _set_weights(cfg, resnet.stages.get("stride_in_1x1", False), weights)
    return cfg


def _plain_resnet(resnet: DictConfig) -> tuple[Arch, Any]:
    """Architecture and norm of a ResNet that ``DATAResNet`` can stand for."""
    if _target(resnet) is not ResNet:
        raise UserError(f"the LazyConfig's backbone is {_name(resnet)}; expected detectron2's ResNet")
    stem, stages = resnet.stem, resnet.stages
    if _target(stem) is not BasicStem or _target(stages) is not ResNet.make_default_stages:
        raise UserError(
            f"the LazyConfig's ResNet has {_name(stem)} and {_name(stages)}; expected BasicStem and make_default_stages"
        )
    other = sorted(set(stages) - _PLAIN)
    if other:
        raise UserError(f"the LazyConfig's ResNet has {', '.join(other)}; expected plain convolutions without them")
    if stages.get("block_class") not in (None, BottleneckBlock) or stages.depth not in RESNET_DEPTHS:
        block = getattr(stages.get("block_class"), "__name__", "its blocks")
        raise UserError(
            f"the LazyConfig's ResNet has depth {stages.depth} and {block}; expected plain bottlenecks and a depth of "
            f"{', '.join(map(str, RESNET_DEPTHS))}"
        )
    norm = stages.get("norm", "BN")
    require_batch_norm("the LazyConfig's model.backbone norm", norm)
    return Arch(stem=stem.out_channels, width=(64, 128, 256, 512), depth=RESNET_DEPTHS[stages.depth]), norm


def _fit_top_block(pyramid: DictConfig, arch: Arch) -> None:
    top_block: Any = pyramid.get("top_block") or {}
    if "in_channels" in top_block and top_block.get("in_feature", "res5") in FEATURES:
        top_block.in_channels = arch.out_channels[FEATURES.index(top_block.get("in_feature", "res5"))]


def _fit_c4(model: DictConfig, arch: Arch, norm: Any) -> None:
    heads: Any = model.get("roi_heads") or {}
    if "res5" not in heads:
        raise UserError("the LazyConfig's model has neither an FPN nor a res5 in its RoI head; expected one of them")
    feature = model.proposal_generator.in_features[0]
    model.proposal_generator.head.in_channels = arch.out_channels[FEATURES.index(feature)]
    heads.res5 = LazyCall(Res5Stage)(arch=str(arch), norm=heads.res5.get("norm", norm))
    for part in ("box_predictor", "mask_head"):
        if part in heads:
            heads[part].input_shape.channels = arch.out_channels[3]


def _set_weights(cfg: DictConfig, stride_in_1x1: bool, weights: Path | None) -> None:
    train: Any = cfg.get("train") or {}
    given = train.get("init_checkpoint") or ""
    left_out = given if given.startswith(FACEBOOKS_WEIGHTS) else ""
    warn_of_changes(stride_in_1x1, left_out and f"train.init_checkpoint {left_out}")
    if weights is not None:
        train.init_checkpoint = f"{weights.absolute()}{BY_NAME_ENDINGS}"
    elif left_out:
        train.init_checkpoint = ""


def _target(node: DictConfig) -> Any:
    target = node.get("_target_")
    return locate(target) if isinstance(target, str) else target


def _name(node: DictConfig) -> str:
    return getattr(_target(node), "__name__", str(node.get("_target_")))
