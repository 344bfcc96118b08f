"""What the tools that compute features are told of the network and of the images, and what they say in the end."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_plugin.tools.number_arguments import sub_net, whole
from data_plugin.utils.workers import spare_cores

if TYPE_CHECKING:
    from data_plugin.features.store import EmbeddingStore

NAMES = (
    "supernet",
    "backbone",
    "path",
    "arch",
    "tap",
    "image_size",
    "calibrate",
    "batch_size",
    "shard_size",
    "workers",
    "device",
)


def add_embed_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them; :func:`options` picks the parsed values.

    Args:
        parser: the tool's parser.
    """
    network = parser.add_mutually_exclusive_group()
    network.add_argument(
        "--supernet",
        help="supernet.safetensors that pre-training wrote, or 'shipped' for the one that comes with the package",
    )
    network.add_argument(
        "--backbone", type=Path, help="one network: the folder of a search's winner, or a file of a ResNet's weights"
    )
    parser.add_argument(
        "--path",
        type=sub_net,
        metavar="GROUPS",
        help="which sub-net of a supernet that was trained with --codes, such as 2,0,1,3",
    )
    parser.add_argument(
        "--arch",
        default="largest",
        help="which network of the supernet: smallest, middle, largest, an architecture, or a winner's folder "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--tap", default="C5", help="feature map that is averaged over its positions, C2 to C5 (default: %(default)s)"
    )
    parser.add_argument(
        "--image-size",
        type=_positive,
        metavar="PIXELS",
        help="height and width of the centre crop, of images whose shorter side was made 256/224 of it (default: the "
        "supernet's pre-training's; 224 for a backbone)",
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="IMAGES",
        help="images that batch-norm statistics are estimated on, as --data; the target's are a good choice, the same "
        "for all stores that are to be compared (default: the statistics in the file)",
    )
    parser.add_argument("--batch-size", type=_positive, default=64, help="images per batch (default: %(default)s)")
    parser.add_argument(
        "--shard-size", type=_positive, default=2_048, help="images in a shard of the store (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=_workers, help=f"processes that read images (default: the spare cores, here {spare_cores()})"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")


def options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of :func:`~data_plugin.features.run.embed_images` that were parsed."""
    return {name: getattr(args, name) for name in NAMES}


def summary(store: EmbeddingStore) -> str:
    """What a store holds, and which images could not be read."""
    network, size = store.header.network, store.header.preprocessing["centre_crop"]
    lines = [f"{store.images} images at {size} pixels, {network['arch']} at {network['tap']}; store: {store.folder}"]
    unreadable = store.unreadable
    if unreadable:
        shown = ", ".join(unreadable[:5]) + (", …" if len(unreadable) > 5 else "")
        count, were = len(unreadable), "was" if len(unreadable) == 1 else "were"
        lines.append(f"{count} of {store.images + count} images could not be read and {were} left out: {shown}")
    return "\n".join(lines)


def _workers(text: str) -> int:
    return whole(text, 0, "a number of processes")


def _positive(text: str) -> int:
    return whole(text, 1, "a number above 0")
