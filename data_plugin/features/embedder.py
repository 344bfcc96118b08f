"""One network, and what becomes of an image on the way to its feature."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.extract import extract
from data_plugin.features.store import StoreHeader
from data_plugin.images.calibration import calibration_images
from data_plugin.images.crops import Transform, centre_crop
from data_plugin.images.input_format import InputFormat
from data_plugin.space.arch import STAGE_TAPS, Arch
from data_plugin.supernet.calibration import calibrate as calibrate_networks
from data_plugin.supernet.checkpoint import load_supernet, pretrained_size
from data_plugin.supernet.foreign_weights import read_backbone
from data_plugin.supernet.named_networks import named_networks
from data_plugin.utils.errors import UserError
from data_plugin.utils.ranks import from_first, rank
from data_plugin.utils.tensor_files import content_hash, read_tensors, require_matching, write_safetensors

IMAGE_SIZE = 224
"""Height and width of the images where nothing says at which size a network was trained."""

CALIBRATION, CALIBRATION_BATCH = 2_048, 256
"""Images that batch-norm statistics are estimated on, and how many of them together."""


@dataclass(frozen=True)
class Embedder:
    """A network up to a tap.

    Args:
        network: returns the tap's feature map alone.
        transform: makes its input of an image.
        description: what the network is, as :attr:`StoreHeader.network` has it.
        preprocessing: what ``transform`` does, as :attr:`StoreHeader.preprocessing` has it.
    """

    network: DATAResNet
    transform: Transform
    description: dict[str, Any]
    preprocessing: dict[str, Any]

    @property
    def dim(self) -> int:
        """Length of a feature."""
        return self.network.arch.out_channels[self.network.out_indices[0]]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> np.ndarray:
        """The features of images.

        Args:
            images: (N, 3, H, W), as ``transform`` makes them.

        Returns:
            The mean of the map over its positions, (N, C), of length 1, float16.
        """
        device = next(self.network.parameters()).device
        (feature_map,) = self.network(images.to(device, memory_format=torch.channels_last))
        return F.normalize(feature_map.mean(dim=(2, 3)), dim=1).half().cpu().numpy()

    def save(self, path: Path) -> None:
        """Write the network's weights, for :func:`read_embedder`."""
        weights = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        write_safetensors(path, weights, {"arch": str(self.network.arch)})


def read_embedder(path: Path, header: StoreHeader, device: torch.device) -> Embedder:
    """The network that the features of a store are of, and its preprocessing.

    Args:
        path: the network's weights, in the folder of the store or of what was made of it.
        header: the store's.
        device: where to compute.

    Raises:
        UserError: if there is no such file, or it holds another network.
    """
    if not path.is_file():
        raise UserError(
            f"{path.parent} was made without the network of its features, by an earlier version; make it again, from "
            "data-embed on"
        )
    arch, stage = Arch.parse(header.network["arch"]), STAGE_TAPS.index(header.network["tap"])
    network = DATAResNet(arch, **_up_to(stage))
    weights, _ = read_tensors(path)
    require_matching(path, weights, network.state_dict(), "the network of these features")
    network.load_state_dict(weights)
    if content_hash(network.state_dict(), str(arch)) != header.network["sha256"]:
        raise UserError(f"{path} is damaged: it is not the network of these features; copy it again")
    preprocessing = dict(header.preprocessing)
    transform = centre_crop(preprocessing["centre_crop"], InputFormat.from_json(preprocessing["input_format"]))
    return Embedder(network.eval().to(device), transform, dict(header.network), preprocessing)


def open_embedder(
    supernet: str | os.PathLike[str] | None,
    backbone: str | os.PathLike[str] | None,
    *,
    path: Sequence[int] | None = None,
    arch: str,
    tap: str,
    image_size: int | None,
    calibrate: Path | None,
    seed: int,
    device: torch.device,
    workers: int,
) -> Embedder:
    """The network that a user names.

    Args:
        supernet: a supernet, see :func:`load_supernet`, or None.
        backbone: the folder or the file of one network's weights, or None; one of the two has to be given.
        path: which sub-net of a supernet with groups; None where it has none.
        arch: which network of the supernet, see :func:`named_networks`.
        tap: a name of :data:`STAGE_TAPS`.
        image_size: height and width of the images; None takes those of the supernet's pre-training, and
            :data:`IMAGE_SIZE` for a backbone.
        calibrate: images that batch-norm statistics are estimated on; without it the weights' running ones are taken.
        seed: of which images these are.
        device: where to compute.
        workers: processes that read images.

    Raises:
        UserError: if a name stands for nothing, weights cannot be read, or both or neither are given.
    """
    if (supernet is None) == (backbone is None):
        raise UserError("features are those of one network; expected either a supernet or a backbone")
    if tap not in STAGE_TAPS:
        raise UserError(f"{tap!r} is no tap to embed at; expected {', '.join(STAGE_TAPS)}")
    upto = _up_to(STAGE_TAPS.index(tap))
    if supernet is not None:
        loaded = load_supernet(supernet, sub_net=None if path is None else tuple(path))
        (chosen,) = named_networks([arch], loaded.info.space)
        network = extract(loaded.query, chosen, **upto)
        input_format = loaded.info.input_format
        size = pretrained_size(supernet, loaded.info) if image_size is None else image_size
        file = Path(supernet).name
        if calibrate is None and len(loaded.info.space) > 1 and rank() == 0:
            warnings.warn(
                f"the batch-norm statistics of {supernet} mix those of all its networks and fit none; --calibrate, "
                "with the same images for all stores that are to be compared, gives the network its own",
                stacklevel=2,
            )
    else:
        assert backbone is not None
        if path is not None:
            raise UserError("a backbone is one network, and a sub-net was asked for; leave out --path")
        if arch != "largest":
            raise UserError(f"a backbone is one network, and {arch!r} was asked for; leave out --arch")
        network = _backbone(Path(backbone), upto)
        input_format = InputFormat.imagenet()
        size = IMAGE_SIZE if image_size is None else image_size
        file = Path(backbone).name
    transform = centre_crop(size, input_format)
    network = network.to(device)
    if calibrate is not None:
        if rank() == 0:
            images = calibration_images(calibrate, transform, CALIBRATION, CALIBRATION_BATCH, seed, workers)
            calibrate_networks([network], images)
        # Of one process, since several devices may not come to the same bits.
        network.load_state_dict(from_first(network.state_dict()))
    description = {
        "sha256": content_hash(network.state_dict(), str(network.arch)),
        "arch": str(network.arch),
        "tap": tap,
        "file": file,
        **({} if path is None else {"path": list(path)}),
        "statistics": "running" if calibrate is None else f"of {Path(os.path.abspath(calibrate))}",
    }
    preprocessing = {
        "resize": round(size * 256 / 224),
        "centre_crop": size,
        "input_format": input_format.to_json(),
    }
    return Embedder(network, transform, description, preprocessing)


def _up_to(stage: int) -> dict[str, Any]:
    """Options of a network that ends at a stage and returns its map."""
    return {"out_indices": (stage,), "num_stages": stage + 1}


def _backbone(path: Path, upto: dict[str, Any]) -> DATAResNet:
    if path.is_dir():
        return DATAResNet.from_pretrained(path, **upto)
    found = read_backbone(path)
    network = DATAResNet(found.arch, **upto)
    network.load_state_dict({name: found.weights[name] for name in network.state_dict()})
    return network.eval()
