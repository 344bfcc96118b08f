"""Putting ``DATAResNet`` in the place of a config's ResNet, with every channel count that follows from it."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import Registry

from data_plugin.backbones.openmmlab.resnet import refuse_options
from data_plugin.space.arch import RESNET_DEPTHS, STAGES, Arch
from data_plugin.utils.errors import UserError

NAME, SHARED_HEAD = "DATAResNet", "DATAResLayer"
"""What the network, and its stage 4 as a C4 detector's shared head, are registered as."""

FORWARDING_NECKS = ("JPU",)
"""Necks that hand on all but the last map of the backbone beside their own (MMSegmentation's FastFCN)."""

NORMS = ("BN", "BN2d", "SyncBN", "MMSyncBN")
"""Norms that a supernet's weights fit."""

_OWN = ("type", "depth", "stage", "stem_channels", "base_channels", "style", "deep_stem")
"""Options that say which architecture a ResNet has; ``style`` and ``deep_stem`` are spoken of apart."""


def detector(config: Config) -> ConfigDict:
    """The part of the config's model that holds the backbone: the model, or the detector of a tracker or a teacher.

    Raises:
        UserError: if there is no backbone.
    """
    model = config.model
    for part in (model, model.get("detector") or {}):
        if part.get("backbone"):
            return part
    raise UserError(
        f"the config's model ({_name(model.get('type'))}) has no backbone; expected model.backbone to be a plain "
        f"ResNet or {NAME}"
    )


def replace_resnet(config: Config, registry: Registry) -> None:
    """Put ``DATAResNet`` in the place of a plain ResNet, with the ResNet's own architecture and options.

    What the two cannot share is said in a warning: a stride in the 1x1 convolutions (``style="caffe"``) moves into the
    3x3, a stem of three 3x3 convolutions (``ResNetV1c``) becomes the supernet's 7x7, and weights of a whole detector
    are left out. A config that has ``DATAResNet`` already stays as it is.

    Args:
        config: the config; changed in place.
        registry: the framework's models.

    Raises:
        UserError: if there is no backbone, or a plain ResNet of bottlenecks with batch norm could not take its place.
    """
    model = detector(config)
    if _name(model.backbone.get("type")) == NAME:
        return
    stock = registry.get("ResNet")
    backbone = _with_defaults(_resnet(model.backbone, registry, stock), stock)
    if model.get("pretrained"):  # MMSegmentation's models hand it to their backbone
        backbone.init_cfg = ConfigDict(type="Pretrained", checkpoint=model.pretrained)
        model.pretrained = None
    arch = _arch(backbone)
    difference = _difference(backbone)
    if difference:
        weights = backbone.init_cfg and f", so its weights ({_plain(backbone.init_cfg)}) are left out"
        warnings.warn(f"the config's {_name(model.backbone.type)} has {difference}{weights or ''}", stacklevel=2)
        backbone.init_cfg = None
    model.backbone = _replacement(NAME, arch, backbone, registry)
    shared_head = _shared_head(model)
    if shared_head:
        found = (_name(shared_head.type), shared_head.get("depth"), shared_head.get("stage", 3))
        if found != ("ResLayer", backbone.depth, 3):
            raise UserError(
                f"the config's shared_head is {_plain(shared_head)}; expected type='ResLayer' with stage=3 "
                f"and depth={backbone.depth} as the backbone's"
            )
        stage = _with_defaults(shared_head, registry.get("ResLayer"))
        stage.init_cfg = None if difference else stage.init_cfg
        model.roi_head.shared_head = _replacement(SHARED_HEAD, arch, stage, registry)
    _leave_out_weights(config, model)
    set_arch(model, arch)


def set_arch(model: ConfigDict, arch: Arch, **options: Any) -> None:
    """Give a model another architecture, and every entry that reads the backbone its channels.

    Args:
        model: what :func:`detector` returned; changed in place.
        arch: the architecture.
        options: further entries of the network and, where stage 4 is a shared head, of that head.
    """
    model.backbone.update(arch=str(arch), **options)
    shared_head = _shared_head(model)
    if shared_head:
        shared_head.update(arch=str(arch), **options)
    channels = arch.out_channels
    for entry, key, stages in _readers(model):
        # An RPN with as many hidden channels as its input, as detectron2's and the C4 detectors', keeps to that.
        follows = key == "in_channels" and entry.get("feat_channels") == entry[key] and "anchor_generator" in entry
        several = tuple if isinstance(entry.get(key), tuple) else list  # modules insist on one or the other
        entry[key] = channels[stages] if isinstance(stages, int) else several(channels[stage] for stage in stages)
        if follows:
            entry.feat_channels = entry[key]


def stages_read(model: ConfigDict) -> tuple[int, ...]:
    """Stages, 0 to 3, whose feature maps the rest of a model reads.

    A shared head is stage 4, so its detector reads C5. A neck reads the backbone's outputs from its start level to its
    end level; without one the heads read those that their ``in_index`` names, or all.

    Args:
        model: what :func:`detector` returned.
    """
    if _shared_head(model):
        return (STAGES - 1,)
    neck = _neck(model)
    read: set[int] = set()
    for entry, _, stages in _readers(model):
        several = (stages,) if isinstance(stages, int) else tuple(stages)
        if entry is neck:
            last = neck.get("end_level", -1)
            several = several[neck.get("start_level", 0) : None if last == -1 else last + 1]
        read.update(several)
    return tuple(sorted(read or model.backbone.get("out_indices", range(STAGES))))


def _readers(model: ConfigDict) -> Iterator[tuple[ConfigDict, str, int | Sequence[int]]]:
    """Entries whose channels are the backbone's: the entry, its key, and the stage or stages that it reads."""
    outputs = tuple(model.backbone.get("out_indices", range(STAGES)))
    neck = _neck(model)
    if neck is not None:
        wanted = neck.get("in_channels", outputs)
        yield neck, "in_channels", outputs[-1] if isinstance(wanted, int) else outputs[: len(wanted)]
        if _name(neck.type) not in FORWARDING_NECKS:
            return
        outputs = outputs[neck.get("start_level", 0) : -1]
    for head in _heads(model):
        index = head.get("in_index", range(len(outputs)) if isinstance(head.in_channels, Sequence) else -1)
        if neck is not None and index not in range(len(outputs)):
            continue
        yield head, "in_channels", outputs[index] if isinstance(index, int) else [outputs[i] for i in index]
        if "c1_in_channels" in head:
            yield head, "c1_in_channels", outputs[0]
    roi_head = model.get("roi_head")
    if roi_head and neck is None:
        for extractor in (*_each(roi_head.get("bbox_roi_extractor")), *_each(roi_head.get("mask_roi_extractor"))):
            yield extractor, "out_channels", outputs[-1]
        for head in (*_each(roi_head.get("bbox_head")), *_each(roi_head.get("mask_head"))):
            yield head, "in_channels", STAGES - 1 if roi_head.get("shared_head") else outputs[-1]


def _heads(model: ConfigDict) -> Iterator[ConfigDict]:
    """Heads that stand beside the backbone, and parts of them that name the maps they read."""
    for name, entry in model.items():
        for head in _each(entry) if name.endswith("_head") else ():
            if "in_channels" in head:
                yield head
            yield from (part for part in head.values() if isinstance(part, ConfigDict) and "in_index" in part)


def _resnet(backbone: ConfigDict, registry: Registry, stock: Any) -> ConfigDict:
    """The entry as one of the framework's ``ResNet``, whose options ``ResNetV1c`` sets."""
    kind = backbone.get("type")
    name, found = _name(kind), registry.get(kind) if isinstance(kind, str) else kind
    if found is stock:
        return backbone
    if name == "ResNetV1c" and isinstance(found, type) and issubclass(found, stock):
        return ConfigDict({**backbone, "deep_stem": True})
    if name == "ResNetV1d":
        raise UserError(
            "the config's backbone is ResNetV1d, whose shortcuts average before a 1x1 convolution where a plain "
            "ResNet's convolve with a stride; to start from the plain one give the option model.backbone.type=ResNet"
        )
    raise UserError(f"the config's backbone is {name}, not a plain ResNet; expected type='ResNet' or type='{NAME}'")


def _difference(backbone: ConfigDict) -> str:
    """What a ResNet has in another place or form than ``DATAResNet``; empty where its weights would fit."""
    differences = {
        f"the stride in its 1x1 convolutions (style={backbone.style!r}), where {NAME} has it in the 3x3": (
            backbone.style != "pytorch"
        ),
        f"a stem of three 3x3 convolutions, where {NAME} has the supernet's 7x7": backbone.get("deep_stem"),
    }
    return " and ".join(difference for difference, is_there in differences.items() if is_there)


def _with_defaults(entry: ConfigDict, kind: Any) -> ConfigDict:
    """An entry with the framework's defaults written out, since ours differ."""
    parameters = inspect.signature(kind).parameters.values()
    given = {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
    return ConfigDict({**given, **entry})


def _arch(backbone: ConfigDict) -> Arch:
    depth = backbone.get("depth")
    if depth not in RESNET_DEPTHS:
        raise UserError(
            f"the config's ResNet has depth={depth}, none of the ResNets of bottlenecks; to start from one give the "
            "option model.backbone.depth=50 (50, 101 or 152)"
        )
    base = backbone.get("base_channels", 64)
    stem = backbone.get("stem_channels") or base
    return Arch(stem=stem, width=(base, 2 * base, 4 * base, 8 * base), depth=RESNET_DEPTHS[depth])


def _replacement(name: str, arch: Arch, entry: ConfigDict, registry: Registry) -> ConfigDict:
    accepted = inspect.signature(registry.get(name)).parameters
    kept = {key: value for key, value in entry.items() if key not in _OWN}
    if entry.norm_cfg.type not in NORMS:
        raise UserError(
            f"the config's ResNet has norm_cfg type={entry.norm_cfg.type!r}, but a supernet's weights are for batch "
            "norm; give it BN or SyncBN"
        )
    if kept.pop("pretrained", None):
        raise UserError("the config's ResNet has pretrained; name its weights in init_cfg, type='Pretrained'")
    refuse_options(name, {key: value for key, value in kept.items() if key not in accepted})
    return ConfigDict(type=name, arch=str(arch), **{key: kept[key] for key in accepted if key in kept})


def _leave_out_weights(config: Config, model: ConfigDict) -> None:
    """Weights of a whole detector would replace the backbone's after it has loaded its own."""
    for owner, key in ((config, "load_from"), (config.model, "init_cfg"), (model, "init_cfg")):
        if owner.get(key):
            warnings.warn(f"{key}={_plain(owner[key])} holds another network's weights and is left out", stacklevel=3)
            owner[key] = None


def _shared_head(model: ConfigDict) -> ConfigDict | None:
    return (model.get("roi_head") or {}).get("shared_head")


def _neck(model: ConfigDict) -> ConfigDict | None:
    return next(iter(_each(model.get("neck"))), None)


def _each(entry: Any) -> list[ConfigDict]:
    if entry is None:
        return []
    return list(entry) if isinstance(entry, (list, tuple)) else [entry]


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).split(".")[-1]


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, ConfigDict) else value
