"""What a selection came to, as an object that shows itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_plugin.coreset.rounds import Rounds
from data_plugin.utils.facts_table import facts_table


@dataclass(frozen=True)
class Coreset:
    """What a selection came to.

    Args:
        path: the list of images, coreset and target joined and shuffled.
        open_images: how many images there were to choose from.
        target_images: how many the target has.
        duplicates: images of the open set that are the target's, pixel by pixel.
        chosen: the coreset, and how it came about.
    """

    path: Path
    open_images: int
    target_images: int
    duplicates: Sequence[int]
    chosen: Rounds

    def __fspath__(self) -> str:
        """The list: what takes a path of images takes this too."""
        return str(self.path)

    def __str__(self) -> str:
        """What was chosen and why no more."""
        chosen, count = self.chosen, len(self.chosen.images)
        lines = [f"{count} of {self.open_images} images chosen ({count / self.open_images:.2%}){_reason(chosen)}"]
        if self.duplicates:
            lines.append(f"left out, since they are the target's pixel by pixel: {len(self.duplicates)}")
        lines.append(f"with the target's {self.target_images} images: {self.path}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """What notebooks show."""
        counts = {
            "images chosen": len(self.chosen.images),
            "images of the open set": self.open_images,
            "images of the target": self.target_images,
            "images of both": len(self.duplicates),
        }
        return facts_table({"list": self.path, **{name: f"{count:,}" for name, count in counts.items()}})


def _reason(chosen: Rounds) -> str:
    if not chosen.rounds:
        return " at random"
    rounds = f" in {len(chosen.rounds)} rounds"
    if chosen.stopped == "similarity" and chosen.discarded is not None and chosen.threshold is not None:
        return (
            f"{rounds}; the next had a mean similarity of {chosen.discarded.similarity:.4f}, below "
            f"{chosen.threshold:.4f}"
        )
    return rounds + (", which are all that there are" if chosen.stopped == "taken" else ", the most that there may be")
