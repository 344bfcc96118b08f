"""What the paper's pre-training costs in GPU hours: computed from a search space and the recipe, not measured.

A step passes every image through the largest and two random networks, forward and backward, and once forward through
the key branch's largest network. A backward pass counts as two forward ones, the random networks cost what networks of
the space do on average, and a multiply-accumulate is two operations. Heads, optimiser and the reading of images are
left out.

    python benchmarks/pretrain_cost.py
"""

from __future__ import annotations

import argparse

from data_plugin import Arch, SearchSpace
from data_plugin.pretrain.recipe import read_recipe
from data_plugin.space import cost

IMAGES = 1_281_167
"""Of ImageNet's training set."""

PEAKS = {"A100": 312e12, "H100 SXM": 989e12}
"""Operations a second on dense matrices in bfloat16, by the vendor's data sheets."""

UTILISED = (0.4, 0.2)
"""Assumed parts of the peak that a training comes to."""

RANDOM = 2
"""Random networks of a step, beside the largest (DATA, Algorithm 1)."""

ALONE = "ResNet-50 alone"

SPACES = {
    "`data`, 85,293 networks": SearchSpace.data(),
    "`mini`, 32,768 networks": SearchSpace.mini(),
    "`micro`, 7,776 networks": SearchSpace.micro(),
    ALONE: SearchSpace.of(Arch.parse("d3-4-6-3_w64-64-128-256-512")),
}


def macs_per_image(space: SearchSpace, size: int) -> float:
    """Multiply-accumulates of a step for one image of so many pixels a side."""
    largest = cost.flops(space.largest, size)
    trained = largest if len(space) == 1 else largest + RANDOM * cost.flops(space.table, size).mean()
    return float(3 * trained + largest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="data_mocov2_in1k", help="epochs and image size (default: %(default)s)")
    parser.add_argument("--images", type=int, default=IMAGES, help="in the folder (default: ImageNet's %(default)s)")
    arguments = parser.parse_args()
    recipe = read_recipe(arguments.recipe)
    if recipe.epochs is None:
        parser.error(f"{arguments.recipe} names no epochs")

    print(f"Computed, not measured: {arguments.images:,} images, {recipe.epochs} epochs, {recipe.image_size} pixels\n")
    columns = [f"{name} at {part:.0%} of its peak" for name in PEAKS for part in UTILISED]
    headings = [
        "space",
        "largest, mean (GMAC)",
        "a step, per image (GMAC)",
        "in all (EFLOP)",
        f"times {ALONE}",
        *columns,
    ]
    print(f"| {' | '.join(headings)} |\n|{' --- |' * len(headings)}")
    for name, space in SPACES.items():
        size = recipe.image_size
        largest, mean = cost.flops(space.largest, size) / 1e9, cost.flops(space.table, size).mean() / 1e9
        step = macs_per_image(space, size)
        operations = 2 * step * arguments.images * recipe.epochs
        hours = [f"{operations / peak / part / 3600:,.3g} h" for peak in PEAKS.values() for part in UTILISED]
        row = [name, f"{largest:.2f}, {mean:.2f}", f"{step / 1e9:.1f}", f"{operations / 1e18:,.3g}"]
        row += [f"{step / macs_per_image(SPACES[ALONE], size):.2g}", *hours]
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
