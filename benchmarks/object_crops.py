"""Cut the objects out of a data set in VOC layout: a labelled folder of other photographs to measure features on.

Boxes of at least 32 pixels on both sides are cut out with a margin of a tenth, those of ``trainval`` into
``train/CLASS``, those of ``test`` into ``val/CLASS``; classes with fewer than 10 objects in either split are left out.

    python benchmarks/object_crops.py --data VOCdevkit --out crops
    data-evaluate knn --supernet supernet.safetensors --train crops/train --val crops/val --k 20 --out runs/knn
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from data_plugin.images.voc import listed_names, voc_root

SPLITS = {"train": "trainval", "val": "test"}
LEAST_SIDE, MARGIN, LEAST_OBJECTS = 32, 0.1, 10

Box = tuple[float, float, float, float]


def objects(folder: Path, split: str) -> Iterator[tuple[Path, str, Box]]:
    """Photograph, class and box of every object that is large enough."""
    for name in listed_names(folder / "ImageSets" / "Main" / f"{split}.txt"):
        for item in ElementTree.parse(folder / "Annotations" / f"{name}.xml").findall("object"):
            corners = (item.findtext(f"bndbox/{at}", "0") for at in ("xmin", "ymin", "xmax", "ymax"))
            left, top, right, bottom = map(float, corners)
            width, height = right - left, bottom - top
            if min(width, height) >= LEAST_SIDE:
                box = (left - MARGIN * width, top - MARGIN * height, right + MARGIN * width, bottom + MARGIN * height)
                yield folder / "JPEGImages" / f"{name}.jpg", item.findtext("name", ""), box


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds VOC2007")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    arguments = parser.parse_args()
    folder = voc_root(arguments.data) / "VOC2007"
    found = {part: list(objects(folder, split)) for part, split in SPLITS.items()}
    counts = {part: Counter(kind for _, kind, _ in each) for part, each in found.items()}
    kept = sorted(kind for kind in counts["train"] if min(count[kind] for count in counts.values()) >= LEAST_OBJECTS)
    for part, each in found.items():
        for number, (path, kind, box) in enumerate(each):
            if kind in kept:
                (arguments.out / part / kind).mkdir(parents=True, exist_ok=True)
                with Image.open(path) as image:
                    left, top, right, bottom = box
                    inside = (max(0, left), max(0, top), min(image.width, right), min(image.height, bottom))
                    image.convert("RGB").crop(inside).save(arguments.out / part / kind / f"{number:05d}.png")
        print(f"{part}: " + ", ".join(f"{kind} {counts[part][kind]}" for kind in kept))


if __name__ == "__main__":
    main()
