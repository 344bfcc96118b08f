"""The sub-net that a routing came to, as an object that shows itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.routing.votes import RESAMPLES, Votes
from data_plugin.space.arch import Arch
from data_plugin.utils.facts_table import facts_table

SUPERNET, BACKBONE = "supernet.safetensors", "backbone"
"""What is in the output folder: the sub-net as a supernet, which a search takes, and one of its networks, a folder."""

SURE = 0.95
"""The part of the resamples in which a route has to be the first to be called sure."""


@dataclass(frozen=True)
class Similarity:
    """How similar the images are to what networks were trained on, as mean cosines to centroids.

    Args:
        route: to the images of the route.
        nearest: to those of the sub-net that each image falls to.
        whole: to all images, which a unified network would have been trained on.
    """

    route: float
    nearest: float
    whole: float

    def to_json(self) -> dict[str, float]:
        """All fields as JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Route:
    """What a routing came to.

    Args:
        out: its output folder.
        path: the sub-net, a group for each level.
        arch: the network of it that is written.
        votes: the sub-nets that the images fall to.
        similarity: of the images to what networks were trained on.
        configs: what trains the network as it is, in the folder of the backbone.
    """

    out: Path
    path: tuple[int, ...]
    arch: Arch
    votes: Votes
    similarity: Similarity
    configs: Sequence[Path]

    @property
    def supernet(self) -> Path:
        """The sub-net as a supernet, to search a network of another size in."""
        return self.out / SUPERNET

    def backbone(self) -> DATAResNet:
        """The network with its weights, in evaluation mode, for any training loop."""
        return DATAResNet.from_pretrained(self.out / BACKBONE)

    @property
    def doubts(self) -> list[str]:
        """What speaks against the route, a sentence each."""
        found = []
        first = ",".join(map(str, self.votes.first))
        if self.path != self.votes.first:
            found.append(f"the images fall to {first} more often; {in_words(self.path)} was asked for")
        if self.votes.confidence < SURE:
            found.append(
                f"other images of the same kind might fall to another sub-net than {first}: raise --image-count"
            )
        if self.similarity.route <= self.similarity.whole:
            found.append(
                "the images are no nearer to those of the route than to all images: compare with a unified network"
            )
        return found

    def __str__(self) -> str:
        """The route, how sure it is, and what is beside it."""
        votes, similarity = self.votes, self.similarity
        others = [
            f"{in_words(path)} ({count / votes.images:.1%})" for path, count in votes.ranking[:4] if path != self.path
        ]
        by_level = ", ".join(f"{votes.share(self.path[: level + 1]):.1%}" for level in range(votes.levels))
        lines = [
            f"route {in_words(self.path)}: {votes.share(self.path):.1%} of {votes.images} images fall to this one of "
            f"{len(votes.counts)} sub-nets; by its digits, one after the other: {by_level}",
            f"then {', '.join(others) if others else 'none'}; all images spread as if over {votes.spread:.1f} sub-nets",
            f"{in_words(votes.first)} is the first in {votes.confidence:.1%} of {RESAMPLES:,} resamples of the images",
            f"mean similarity of the images to those that the route saw: {similarity.route:.3f}; to all, which a "
            f"unified network sees: {similarity.whole:.3f}; to those of the nearest sub-net of each: "
            f"{similarity.nearest:.3f}",
            *(f"but {doubt}" for doubt in self.doubts),
            f"network {self.arch}: {self.out / BACKBONE}",
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Route({str(self.out)!r}: sub-net {in_words(self.path)}, {self.arch})"

    def _repr_html_(self) -> str:
        """What notebooks show."""
        return facts_table(self.facts())

    def facts(self) -> dict[str, Any]:
        """What is told of it, in words."""
        return {
            "sub-net": in_words(self.path),
            "share of the images": f"{self.votes.share(self.path):.1%}",
            "first in resamples": f"{self.votes.confidence:.1%}",
            "similarity to the images of the route": f"{self.similarity.route:.3f}",
            "similarity to all images": f"{self.similarity.whole:.3f}",
            "network": self.arch,
            "folder": self.out / BACKBONE,
        }


def in_words(path: Sequence[int]) -> str:
    """A path as a command line takes it."""
    return ",".join(map(str, path))
