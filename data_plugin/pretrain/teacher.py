"""A frozen network of any kind that teaches a supernet: where it comes from, and what it says of clean images."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_plugin.pretrain.views import Clean
from data_plugin.supernet.foreign_weights import read_backbone
from data_plugin.supernet.named_supernet import named_supernet
from data_plugin.utils.errors import UserError
from data_plugin.utils.extras import is_installed
from data_plugin.utils.tensor_files import read_tensors, require_matching

FORMS = "timm:NAME, torchvision:NAME, hub:FOLDER:NAME, module:callable, or the file of a supernet or ResNet"


@dataclass(frozen=True)
class TeacherInput:
    """What a network wants to be shown.

    Args:
        size: height and width of its images in pixels.
        mean: per channel (RGB, 0 to 255), what is subtracted.
        std: per channel, what is divided by afterwards.
    """

    size: int
    mean: Sequence[float]
    std: Sequence[float]


class FrozenTeacher:
    """What a network says of clean images, for the part that a view shows of them.

    The network sees every image whole and without random colours, so its answers can be remembered. It is no module of
    the training: its weights are neither trained nor saved.

    Args:
        network: takes normalised images (N, 3, S, S) to a feature map (N, C, h, w).
        given: the network's input.
        dim: channels that are kept of the map. Where it has more, they are projected at random, the same way every
            time, which nearly keeps angles (Johnson and Lindenstrauss, 1984).
        keep: for how many images, the first of the source, answers are remembered: ``2 * dim * h * w`` bytes each.
        folder: where they are remembered, for a later start of the same training too; without it in memory.
    """

    def __init__(
        self, network: nn.Module, given: TeacherInput, dim: int, keep: int = 0, folder: Path | None = None
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.features = features_of(network)
        self.given = given
        self.dim = dim
        self.keep = keep
        self.folder = folder
        self.projection: Tensor | None = None
        self.kept = self.known = torch.empty(0, dtype=torch.bool)

    def __call__(self, clean: Clean, view: int) -> Tensor:
        """The teacher's map of what a view shows.

        Args:
            clean: the images.
            view: which of their views.

        Returns:
            (N, channels, h, w), as fine as the teacher's map of the whole image.

        Raises:
            UserError: if the network gives no map or values that are not finite.
        """
        maps = self._whole(clean)
        # In the middle of cells; beyond the outermost middles the map stays as it is there.
        grid = F.affine_grid(clean.places[view].to(maps), [len(maps), 1, *maps.shape[2:]], align_corners=False)
        return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)

    def _whole(self, clean: Clean) -> Tensor:
        """The maps of whole images (N, channels, h, w), through half precision whether remembered or not."""
        indices, device = clean.indices.cpu(), clean.images.device
        if not len(self.known) and self.folder is not None and (self.folder / "known.npy").is_file():
            self._open_memory(())  # not at once: a new training clears the folder of the one that it replaces
        if len(self.known) and (indices < self.keep).all() and self.known[indices].all():
            return self.kept[indices].to(device).float()
        maps = self._ask(clean.images).half()
        if not self.keep:
            return maps.float()
        if not len(self.known):
            self._open_memory(maps.shape[1:])
        keepable = indices < self.keep
        self.kept[indices[keepable]] = maps.cpu()[keepable]
        self.known[indices[keepable]] = True
        return maps.float()

    def _open_memory(self, shape: Sequence[int]) -> None:
        """Zeros for every image that is kept, or what an earlier start of the training has written."""

        def zeros(name: str, kind: type, shape: Sequence[int]) -> Tensor:
            if self.folder is None:
                return torch.from_numpy(np.zeros(shape, kind))
            path = self.folder / f"{name}.npy"
            if path.is_file():
                return torch.from_numpy(np.load(path, mmap_mode="r+"))
            self.folder.mkdir(parents=True, exist_ok=True)
            return torch.from_numpy(np.lib.format.open_memmap(path, "w+", kind, tuple(shape)))

        self.kept, self.known = zeros("maps", np.float16, (self.keep, *shape)), zeros("known", np.bool_, (self.keep,))

    @torch.no_grad()
    def _ask(self, images: Tensor) -> Tensor:
        found = answer(self.network, self.features, self.given, images)
        if found.shape[1] < self.dim:
            raise UserError(
                f"the teacher's map has {found.shape[1]} channels, fewer than {self.dim}; lower settings.dim to that"
            )
        if found.shape[1] == self.dim:
            return found
        if self.projection is None:
            generator = torch.Generator().manual_seed(0)
            self.projection = torch.linalg.qr(torch.randn(found.shape[1], self.dim, generator=generator))[0]
        return torch.einsum("nchw,cd->ndhw", found, self.projection.to(found))


def answer(network: nn.Module, features: Callable[[Tensor], Any], given: TeacherInput, images: Tensor) -> Tensor:
    """A network's map of images in its own normalisation, computed where these are.

    Args:
        network: the network.
        features: what :func:`features_of` says of it.
        given: its input.
        images: (N, 3, S, S), RGB, 0 to 255.

    Returns:
        (N, C, h, w) in float32; on a GPU through bfloat16.

    Raises:
        UserError: if it gives no map or values that are not finite.
    """
    device = images.device
    network.to(device)
    mean, std = (images.new_tensor(values, dtype=torch.float32) for values in (given.mean, given.std))
    normalised = (images.float() - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        found = as_map(features(normalised.contiguous(memory_format=torch.channels_last)), network).float()
    if not torch.isfinite(found).all():
        raise UserError(
            "the teacher gives values that are not finite; expected a trained network, and its own normalisation"
        )
    return found


def load_teacher(spec: str, weights: str = "", given: TeacherInput | None = None) -> tuple[nn.Module, TeacherInput]:
    """A network to learn from, and its input.

    Args:
        spec: ``timm:NAME`` or ``torchvision:NAME``, with the weights that these packages publish; ``hub:FOLDER:NAME``,
            an entry of a repository's ``hubconf.py`` in a local folder (DINOv2, DINOv3); ``module:callable``, which
            returns a network; or what :func:`read_backbone` reads (a supernet's file, MoCo's, a supervised ResNet's).
        weights: a file of the network's state dict, instead of the published weights.
        given: its input; needed where the source does not tell.

    Raises:
        UserError: if there is no such network, its weights do not fit or cannot be had, or its input is not known.
    """
    kind, _, name = spec.partition(":")
    known: TeacherInput | None = None
    try:
        if kind == "timm":
            network, known = _timm(name, pretrained=not weights)
        elif kind == "torchvision":
            network, known = _torchvision(name, pretrained=not weights)
        elif kind == "hub":
            folder, _, entry = name.rpartition(":")
            network = torch.hub.load(folder, entry, source="local", **({"pretrained": False} if weights else {}))
        elif name:
            network = getattr(importlib.import_module(kind), name)()
        elif named_supernet(spec).is_file():
            network = read_backbone(spec).network()
        else:
            raise UserError(f"the teacher {spec!r} is not a file; expected {FORMS}")
    except UserError:
        raise
    # What a package or a user's code raises where a name or a download fails.
    except Exception as error:
        raise UserError(f"the teacher {spec!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise UserError(f"the teacher {spec!r} is a {type(network).__name__}; expected a torch.nn.Module")
    if weights:
        state, _ = read_tensors(Path(weights))
        require_matching(weights, state, network.state_dict(), f"the weights of {spec}")
        network.load_state_dict(state)
    if (given or known) is None:
        raise UserError(
            f"the input of the teacher {spec!r} is not known; give settings.teacher_size, settings.teacher_mean and "
            "settings.teacher_std (per channel, 0 to 255)"
        )
    return network, given or known  # type: ignore[return-value]


def as_map(output: Any, network: nn.Module) -> Tensor:
    """A network's output as a feature map (N, C, h, w).

    Args:
        output: a map, several of which the last counts; tokens (N, L, C), those before the patches being left out; or
            DINOv2's dictionary.
        network: where it comes from.

    Raises:
        UserError: if it is none of these.
    """
    if isinstance(output, Mapping):
        output = output.get("x_norm_patchtokens", output)
    if isinstance(output, (list, tuple)):
        output = output[-1]
    if isinstance(output, Tensor) and output.dim() == 4:
        return output.permute(0, 3, 1, 2) if getattr(network, "output_fmt", "") == "NHWC" else output
    if isinstance(output, Tensor) and output.dim() == 3:
        side = int(output.shape[1] ** 0.5)
        return output[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise UserError(f"the teacher's output is {shape}; expected a feature map (N, C, h, w) or tokens (N, L, C)")


def features_of(network: nn.Module) -> Callable[[Tensor], Any]:
    """The function of a network that gives features: what timm and DINOv2, EfficientNet-Lite and torchvision call so.

    A network that has none of these has to give them itself.
    """
    for name in ("forward_features", "extract_features"):
        if hasattr(network, name):
            return getattr(network, name)  # type: ignore[no-any-return]
    if all(hasattr(network, name) for name in ("conv1", "maxpool", "layer4", "fc")):  # torchvision's ResNets
        return nn.Sequential(*list(network.children())[:-2])
    if isinstance(getattr(network, "features", None), nn.Module) and not hasattr(network, "permute"):
        return network.features  # type: ignore[return-value]
    return network


def _timm(name: str, pretrained: bool) -> tuple[nn.Module, TeacherInput]:
    if not is_installed("timm"):
        raise UserError("timm is not installed, which the teacher needs; install it with: pip install timm")
    import timm

    network = timm.create_model(name, pretrained=pretrained, num_classes=0)
    config = timm.data.resolve_model_data_config(network)
    mean, std = ([255 * value for value in config[key]] for key in ("mean", "std"))
    return network, TeacherInput(config["input_size"][-1], mean, std)


def _torchvision(name: str, pretrained: bool) -> tuple[nn.Module, TeacherInput]:
    from torchvision.models import get_model, get_model_weights

    published = get_model_weights(name).DEFAULT
    network = get_model(name, weights=published if pretrained else None)
    if features_of(network) is network:
        raise UserError(f"torchvision's {name} gives no feature map; expected a network with layer4 or features")
    preset = published.transforms()
    mean, std = ([255 * value for value in values] for values in (preset.mean, preset.std))
    return network, TeacherInput(preset.crop_size[0], mean, std)
