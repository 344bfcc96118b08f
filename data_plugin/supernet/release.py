"""Reading the checkpoint that DATA's authors released (GAIA-vision/GAIA-ssl) as a supernet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from data_plugin.backbones.dynamic_resnet import DynamicResNet
from data_plugin.images.input_format import InputFormat
from data_plugin.space.search_space import SearchSpace
from data_plugin.supernet.checkpoint import Supernet, SupernetInfo
from data_plugin.supernet.imported import Imported, origin
from data_plugin.utils.errors import UserError
from data_plugin.utils.tensor_files import read_tensors, require_matching

BRANCHES = {"encoder_q.": "query", "encoder_k.": "key"}
"""Their branches, each a backbone ``0.*`` and a head ``1.*``, and what a supernet's file calls them."""

HEAD = {"1.mlp.0.": "layers.0.", "1.mlp.2.": "layers.2."}
"""The layers of their projection head, and what lightly's MoCo head, which ours is, calls them."""

COPY = "backbone."
"""Where the release writes the query branch's backbone, ``encoder_q.0.*``, a second time."""

LEFT_OUT = ("queue", "queue_ptr")
"""Keys of past steps, which a supernet's file does not hold."""


def holds_release(path: Path) -> bool:
    """Whether a file has the names of the authors' checkpoint, which OpenSelfSup's MoCo has too.

    Raises:
        UserError: if it cannot be read safely.
    """
    state = read_tensors(path)[0].get("state_dict")
    return isinstance(state, Mapping) and any(
        str(name).removeprefix("module.").startswith("encoder_q.0.") for name in state
    )


def read_release(path: Path, space: SearchSpace, input_format: InputFormat, image_size: int = 224) -> Imported:
    """Read the authors' checkpoint.

    Args:
        path: a PyTorch file with the weights under ``state_dict``, with or without the prefix ``module.`` of
            DistributedDataParallel.
        space: the space that was trained. The file does not name it, but its shapes have to be those of the space's
            largest network.
        input_format: channel order and normalisation of that training, which the file does not name either.
        image_size: height and width of the images of that training in pixels, another thing that it does not name.

    Raises:
        UserError: if the file cannot be read safely, an entry is missing, left over or of another shape, or the two
            copies of the query branch differ.
    """
    contents, _ = read_tensors(path)
    state = contents.get("state_dict")
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no tensors under 'state_dict'; expected the checkpoint of the authors' release")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    weights = _checked(path, state, space)
    branches = {ours: _backbone(space, _below(weights, f"{theirs}0.")) for theirs, ours in BRANCHES.items()}
    heads = {
        f"{ours}.{our_layer}{name}": value.float()
        for theirs, ours in BRANCHES.items()
        for their_layer, our_layer in HEAD.items()
        for name, value in _below(weights, theirs + their_layer).items()
    }
    parts = {part: len(_below(state, part)) for part in (*BRANCHES, COPY)}
    info = SupernetInfo(space, "mocov2", input_format, origin(path, image_size))
    return Imported(
        Supernet(info, branches["query"], branches["key"], heads),
        {**parts, **dict.fromkeys(LEFT_OUT, 1)},
        [*LEFT_OUT, *(name for name in contents if name != "state_dict")],
    )


def _checked(path: Path, state: Mapping[str, Tensor], space: SearchSpace) -> dict[str, Tensor]:
    """All entries of the authors' layout, those that count batches added where they lack."""
    layout = _layout(state, space)
    # Nothing computes with the counts, and not every batch norm has one.
    counts = {name: torch.zeros_like(value, device="cpu") for name, value in layout.items() if name.endswith("tracked")}
    weights = {**counts, **state}
    require_matching(path, weights, layout, f"the authors' layout with the shapes of {space.largest}")
    for name, value in _below(weights, COPY).items():
        if not torch.equal(value, weights[f"encoder_q.0.{name}"]):
            raise UserError(
                f"{path} holds different values under {COPY}{name} and encoder_q.0.{name}, which the release writes as "
                "copies of each other; set one to the other, whichever is meant"
            )
    return weights


def _layout(state: Mapping[str, Tensor], space: SearchSpace) -> dict[str, Tensor]:
    """A tensor of the right shape for every entry; the file itself tells the widths of the head and the queue."""
    last = state.get("encoder_q.1.mlp.2.weight", torch.empty(128, 2048, device="meta"))
    dim, hidden = last.shape if last.ndim == 2 else (128, 2048)
    with torch.device("meta"):
        backbone = DynamicResNet(space).state_dict()
        head = {
            "1.mlp.0.weight": torch.empty(hidden, space.largest.out_channels[-1]),
            "1.mlp.0.bias": torch.empty(hidden),
            "1.mlp.2.weight": torch.empty(dim, hidden),
            "1.mlp.2.bias": torch.empty(dim),
        }
        queue = torch.empty(dim, state["queue"].shape[-1] if "queue" in state and state["queue"].ndim else 65_536)
    branch = {**{f"0.{name}": value for name, value in backbone.items()}, **head}
    return {
        **{theirs + name: value for theirs in BRANCHES for name, value in branch.items()},
        **{COPY + name: value for name, value in backbone.items()},
        "queue": queue,
        "queue_ptr": torch.empty(1, device="meta"),
    }


def _backbone(space: SearchSpace, weights: Mapping[str, Tensor]) -> DynamicResNet:
    with torch.device("meta"):
        network = DynamicResNet(space)
    network.load_state_dict(weights, assign=True)
    return network.float().eval()


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
