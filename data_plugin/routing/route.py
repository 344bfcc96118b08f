"""The sub-net that a routing came to, as an object that shows itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.routing.accuracies import Accuracies
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
        by_sub_net: to the images of each sub-net, in the order of the paths.
        nearest: to those of the sub-net that each image falls to.
        whole: to all images, which a unified network would have been trained on.
    """

    by_sub_net: Sequence[float]
    nearest: float
    whole: float

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {"nearest": self.nearest, "whole": self.whole, "by_sub_net": list(self.by_sub_net)}


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
        accuracies: of all sub-nets on labelled images; None without labels.
        control: whether the images of the pre-training were dealt to sub-nets at random.
    """

    out: Path
    path: tuple[int, ...]
    arch: Arch
    votes: Votes
    similarity: Similarity
    configs: Sequence[Path]
    accuracies: Accuracies | None = None
    control: bool = False

    @property
    def supernet(self) -> Path:
        """The sub-net as a supernet, to search a network of another size in."""
        return self.out / SUPERNET

    def backbone(self) -> DATAResNet:
        """The network with its weights, in evaluation mode, for any training loop."""
        return DATAResNet.from_pretrained(self.out / BACKBONE)

    @property
    def route_similarity(self) -> float:
        """How similar the images are to those of the route."""
        return self.similarity.by_sub_net[self.votes.number(self.path)]

    @property
    def doubts(self) -> list[str]:
        """What speaks against the route, a sentence each."""
        measured, found = self.accuracies, []
        best, why, confidence = (
            (self.votes.first, "the images fall to it most often", self.votes.confidence)
            if measured is None
            else (measured.best, "it is the most accurate", measured.confidence)
        )
        if self.control:
            found.append("the images of the pre-training were dealt at random: no sub-net saw more like these than all")
        if self.path != best:
            found.append(f"{in_words(best)} would be the route, since {why}; {in_words(self.path)} was asked for")
        if confidence < SURE:
            found.append(
                f"other images of the same kind might lead to another sub-net than {in_words(best)}: more would tell"
            )
        if self.route_similarity <= self.similarity.whole:
            found.append(
                "the images are no nearer to those of the route than to all images: compare with a unified network"
            )
        if measured is not None and measured.unified is not None:
            ahead, error = measured.ahead(self.path)
            if ahead <= 2 * error:
                found.append(
                    f"it is not surely better than the unified network, {ahead:+.1%} in accuracy with a standard error "
                    f"of {error:.1%}"
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
            f"{in_words(votes.first)} has most of them in {votes.confidence:.1%} of {RESAMPLES:,} resamples",
            f"mean similarity of the images to those that the route saw: {self.route_similarity:.3f}; to all, which a "
            f"unified network sees: {similarity.whole:.3f}; each to those of its own sub-net: {similarity.nearest:.3f}",
            *([] if self.accuracies is None else _labelled(self.accuracies, self.path, votes.first)),
            *(f"but {doubt}" for doubt in self.doubts),
            f"network {self.arch}: {self.out / BACKBONE}",
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Route({str(self.out)!r}: sub-net {in_words(self.path)}, {self.arch})"

    def _repr_html_(self) -> str:
        """What notebooks show."""
        return facts_table(
            {
                "sub-net": in_words(self.path),
                "share of the images": f"{self.votes.share(self.path):.1%}",
                "most images in resamples": f"{self.votes.confidence:.1%}",
                "similarity to the images of the route": f"{self.route_similarity:.3f}",
                "similarity to all images": f"{self.similarity.whole:.3f}",
                "network": self.arch,
                "folder": self.out / BACKBONE,
            }
        )


def _labelled(measured: Accuracies, path: Sequence[int], by_images: Sequence[int]) -> list[str]:
    """What labelled images say, a sentence each."""
    lines = [
        f"of {measured.images} labelled images the route is right on {measured.of(path):.1%}, the sub-net that images "
        f"alone lead to, {in_words(by_images)}, on {measured.of(by_images):.1%}, all sub-nets on average on "
        f"{measured.by_sub_net.mean():.1%}",
        f"the most accurate, {in_words(measured.best)}, is right on {measured.of(measured.best):.1%}, and chosen on "
        f"one half of the images on {measured.held.mean():.1%} of the other; it is the first in "
        f"{measured.confidence:.1%} of the resamples",
    ]
    if measured.unified is not None:
        ahead, error = measured.ahead(path)
        lines.append(
            f"the unified network is right on {measured.unified.mean():.1%}; the route is ahead by {ahead:+.1%} with a "
            f"standard error of {error:.1%}"
        )
    return lines


def in_words(path: Sequence[int]) -> str:
    """A path as a command line takes it."""
    return ",".join(map(str, path))
