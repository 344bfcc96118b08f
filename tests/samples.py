"""What tests of several rooms build on: a tiny search space, random images, a supernet of random weights."""

import contextlib
import itertools
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from data_plugin import SearchSpace
from data_plugin.backbones import DynamicResNet
from data_plugin.features.codes import Codes, CodesHeader, fingerprint_of, leaf_sizes, write_codes
from data_plugin.features.store import EmbeddingStore, StoreHeader, make_store, write_shard
from data_plugin.images.batch import ImageBatches, ImageSource, LoadedImage
from data_plugin.images.drawn_voc import CLASSES as DRAWN_CLASSES
from data_plugin.images.image_files import Images
from data_plugin.images.input_format import InputFormat
from data_plugin.search.downstream import Downstream
from data_plugin.space import cost
from data_plugin.space.latency_model import networks_to_measure
from data_plugin.space.latency_table import LatencyTable
from data_plugin.space.resolution import Resolution
from data_plugin.supernet.checkpoint import Supernet, SupernetInfo, save_supernet

SPACE = SearchSpace(
    stem=(4, 8),
    width=((4, 8), (8, 12), (8, 16), (16, 24)),
    depth=((1, 2), (1, 2), (1, 3), (1, 2)),
)

Size = tuple[int, int]


class RandomImages(ImageSource):
    """Normally distributed pixels, the same every time."""

    def __init__(self, sizes: Sequence[Size], names: Sequence[str] | None = None, seed: int = 1) -> None:
        super().__init__([f"{index}.jpg" for index in range(len(sizes))] if names is None else names)
        generator = torch.Generator().manual_seed(seed)
        self.images = [LoadedImage(torch.randn(3, *size, generator=generator), size) for size in sizes]

    def __getitem__(self, index: int) -> LoadedImage:
        return self.images[index]


class FailingImages(RandomImages):
    """Random images of which one cannot be had once ``after`` others have been read; what was read is in ``read``."""

    def __init__(self, count: int, after: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        super().__init__([(64, 64)] * count)
        self.after = after
        self.error = error
        self.read: list[int] = []

    def __getitem__(self, index: int) -> LoadedImage:
        if len(self.read) == self.after:
            raise self.error
        self.read.append(index)
        return super().__getitem__(index)


def random_batches(*groups: Sequence[Size], seed: int = 1) -> ImageBatches:
    """Random images of the given heights and widths, a batch a group; those of several sizes are padded."""
    sizes = [size for group in groups for size in group]
    names = [f"{batch}-{image}" for batch, group in enumerate(groups) for image in range(len(group))]
    ends = torch.tensor([0, *map(len, groups)]).cumsum(0).tolist()
    parts = [list(range(first, end)) for first, end in itertools.pairwise(ends)]
    return ImageBatches(RandomImages(sizes, names, seed), parts)


def random_detector(*_: object, **__: object) -> Downstream:
    """What a search asks of a detector that reads C5 of random images, in the place of a framework's config."""
    images = RandomImages([(64, 64)] * 2)
    return Downstream("mmdet", "MMDetection", (), images, "nowhere", None, ("C5",), Resolution(), (), {})


def random_supernet(
    space: SearchSpace = SPACE, input_format: InputFormat | None = None, seed: int = 0, method: str = "mocov2"
) -> Supernet:
    """A supernet of random weights, its two branches apart."""
    torch.manual_seed(seed)
    info = SupernetInfo(space, method, input_format or InputFormat.imagenet())
    return Supernet(info, DynamicResNet(space).eval(), DynamicResNet(space).eval())


def distilled_supernet(space: SearchSpace = SPACE) -> Supernet:
    """A supernet of random weights whose file says that its teacher saw labels."""
    supernet = random_supernet(space, method="distill")
    training = {"image_size": 32, "recipe": {"settings": {"teacher_saw_labels": True}}}
    return replace(supernet, info=replace(supernet.info, training=training))


def random_supernet_file(path: Path, space: SearchSpace = SPACE, input_format: InputFormat | None = None) -> Path:
    """The file of a supernet of random weights."""
    save_supernet(path, random_supernet(space, input_format))
    return path


def latency_table(space: SearchSpace = SPACE, size: Size = (64, 64)) -> LatencyTable:
    """The table of a device that does a million multiply-accumulates a millisecond."""
    seconds = {arch: 1e-9 * cost.flops(arch, size) for arch in networks_to_measure(space)}
    check = {arch: seconds.pop(arch) for arch in list(seconds)[:2]}
    return LatencyTable(space, size, Resolution(), "a board", "a runtime 1.0", None, seconds, check)


def used(network: nn.Module) -> nn.Module:
    """The network with batch norms as after a training: all scales, shifts and statistics apart."""
    generator = torch.Generator().manual_seed(1)
    for name, value in network.state_dict().items():
        if value.dim() == 1:
            low = 0.5 if name.endswith(("weight", "running_var")) else -0.5
            value.copy_(low + torch.rand(value.shape, generator=generator))
    return network


def tiny_teacher() -> nn.Module:
    """A frozen teacher of random weights, the same every time: 12 channels at stride 8."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(nn.Conv2d(3, 12, 8, 8), nn.ReLU()).float()


TEACHER = {
    "teacher": "samples:tiny_teacher",
    "teacher_saw_labels": False,
    "teacher_size": 32,
    "teacher_mean": [127.0, 127.0, 127.0],
    "teacher_std": [64.0, 64.0, 64.0],
}
"""Settings of a distillation from it."""

SMALL_C4 = {
    "mmdet": [
        "test_dataloader.num_workers=0",
        "test_dataloader.dataset.pipeline.1.scale=(160,96)",
        "train_dataloader.num_workers=0",
        "train_dataloader.batch_size=2",
        "train_dataloader.dataset.datasets.0.pipeline.3.scales=[(160,96)]",
        "val_dataloader.num_workers=0",
        "val_dataloader.dataset.pipeline.1.scale=(160,96)",
        "train_cfg.max_iters=2",
        "train_cfg.val_interval=2",
        "custom_hooks.0.num_iters=2",
        "model.train_cfg.rcnn.sampler.num=8",
        "model.test_cfg.rpn.max_per_img=10",
    ],
    "detectron2": [
        "DATALOADER.NUM_WORKERS=0",
        "INPUT.MIN_SIZE_TRAIN=[96]",
        "INPUT.MIN_SIZE_TEST=96",
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE=8",
        "MODEL.RPN.POST_NMS_TOPK_TEST=10",
        "SOLVER.IMS_PER_BATCH=2",
        "SOLVER.MAX_ITER=2",
        "SOLVER.STEPS=[]",
        "TEST.PRECISE_BN.NUM_ITER=2",
    ],
}
"""Options that make a few steps on few and small images of ``faster_rcnn_c4_voc``, by framework."""

SMALL_FCN = [
    "train_dataloader.num_workers=0",
    "val_dataloader.num_workers=0",
    "test_dataloader.num_workers=0",
    "train_dataloader.batch_size=2",
    "train_dataloader.dataset.pipeline.2.scale=(96,64)",
    "train_dataloader.dataset.pipeline.3.crop_size=(48,48)",
    "val_dataloader.dataset.pipeline.1.scale=(96,64)",
    "test_dataloader.dataset.pipeline.1.scale=(96,64)",
    "model.data_preprocessor.size=(48,48)",
    "model.test_cfg.mode=whole",
    "train_cfg.max_iters=2",
    "train_cfg.val_interval=2",
    "default_hooks.checkpoint.interval=2",
    "model.decode_head.channels=8",
    "model.auxiliary_head.channels=8",
]
"""Options that make a few steps on few and small images of ``fcn_d8_cityscapes``."""


def with_classes(voc: Path, copy: Path, names: Sequence[str]) -> Path:
    """A copy of a drawn data root in VOC layout whose objects are of other classes.

    Args:
        voc: the data root.
        copy: the folder that gets the copy.
        names: the classes, which take the place of the drawn ones in turn.
    """
    shutil.copytree(voc, copy)
    new = dict(zip(DRAWN_CLASSES, itertools.cycle(names), strict=False))
    for annotation in copy.rglob("*.xml"):
        renamed = re.sub(r"<name>(\w+)</name>", lambda found: f"<name>{new[found[1]]}</name>", annotation.read_text())
        annotation.write_text(renamed)
    return copy


def drawn_names(voc: Path, split: str) -> list[list[str]]:
    """The classes of the objects of every image of a split, as its annotations have them."""
    folder = voc / "VOC2007"
    images = (folder / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
    return [re.findall(r"<name>(.*)</name>", (folder / "Annotations" / f"{name}.xml").read_text()) for name in images]


OWN_CATEGORIES = {"walker": 7, "vehicle": 3, "hound": 12}
"""Categories and their ids, listed in another order than that of the ids."""

OBJECTS = ("walker", "hound", "vehicle", "vehicle")
"""The categories of the objects of every image of :func:`draw_own_coco`."""


def draw_own_coco(root: Path, train: int = 4, val: int = 2) -> Path:
    """Draw a data set in COCO's layout whose categories are its own, every object a bar with its polygon.

    Args:
        root: the folder that gets the data set.
        train: images of train2017.
        val: images of val2017.
    """
    rng = np.random.default_rng(0)
    for split, count in (("train2017", train), ("val2017", val)):
        (root / split).mkdir(parents=True)
        images, annotations = [], []
        for number in range(count):
            pixels = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            for place, name in enumerate(OBJECTS):
                x, width = 4 + 22 * place, 18
                pixels[10:50, x : x + width] = 20 * OWN_CATEGORIES[name]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": OWN_CATEGORIES[name],
                        "bbox": [x, 10, width, 40],
                        "area": width * 40,
                        "segmentation": [[x, 10, x + width, 10, x + width, 50, x, 50]],
                        "iscrowd": 0,
                    }
                )
            Image.fromarray(pixels).save(root / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 64})
        categories = [{"id": number, "name": name} for name, number in OWN_CATEGORIES.items()]
        (root / "annotations").mkdir(exist_ok=True)
        contents = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(contents))
    return root


@contextlib.contextmanager
def unchanged_catalogs() -> Iterator[None]:
    """Give detectron2's catalogs back at the end what they held at the start."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    data_sets = dict(DatasetCatalog.data)
    metadata = {name: (each, dict(vars(each))) for name, each in MetadataCatalog.data.items()}
    yield
    DatasetCatalog.data.clear()
    DatasetCatalog.data.update(data_sets)
    MetadataCatalog.data.clear()
    for name, (each, values) in metadata.items():
        vars(each).clear()
        vars(each).update(values)
        MetadataCatalog.data[name] = each


def written_store(folder: Path, features: np.ndarray, shard_size: int = 7, **changes: object) -> EmbeddingStore:
    """A store of given features, of images that are not there.

    Args:
        folder: the store.
        features: (N, C).
        shard_size: images in a shard.
        changes: other fields of the header; or ``pixels``, other hashes than one of the folder's name for each image.
    """
    names = [f"{index}.jpg" for index in range(len(features))]
    pixels = changes.pop("pixels", [f"{folder.name} {name}" for name in names])
    values = {
        "network": {"sha256": "0", "arch": "d1-1-1-1_w4-4-8-8-16", "tap": "C5", "file": "s.safetensors"},
        "preprocessing": {"resize": 37, "centre_crop": 32},
        "source": {"path": "images", "root": str(folder.parent), "images": len(features), "fingerprint": "a"},
        "dim": features.shape[1],
        "shard_size": shard_size,
    }
    header = StoreHeader(**{**values, **changes})
    for shard in make_store(folder, header):
        part = list(header.part(shard))
        described = ([names[index] for index in part], [pixels[index] for index in part], [])
        write_shard(folder, shard, features[part], *described)
    return EmbeddingStore(folder)


def written_codes(
    folder: Path, images: Images, digits: Sequence[Sequence[int]], children: int, unreadable: Sequence[str] = ()
) -> Codes:
    """Given codes of images, whose parts have centroids of random features.

    Args:
        folder: the codes.
        images: the images.
        digits: a row for each of them that can be read.
        children: parts of every part.
        unreadable: names of those that cannot.
    """
    rows = np.array(digits, np.uint8)
    levels, dim = rows.shape[1], 6
    names = [name for name in images.names if name not in unreadable]
    source = {"path": str(images.root), "root": str(images.root), "images": len(images)}
    store = StoreHeader(
        {"sha256": "0", "arch": "d1-1-1-1_w4-4-8-8-16", "tap": "C5", "file": "s.safetensors"},
        {"resize": 37, "centre_crop": 32},
        {**source, "fingerprint": images.fingerprint()},
        dim,
        7,
    )
    sizes, similar = leaf_sizes(rows, children), (0.5,) * levels
    fingerprint = fingerprint_of(rows, names, list(unreadable))
    header = CodesHeader(levels, children, 0, False, len(rows), sizes, similar, similar, fingerprint, store)
    rng = np.random.default_rng(0)
    centroids = [rng.normal(size=(children**level, dim)) for level in range(levels + 1)]
    centroids = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in centroids]
    folder.mkdir(parents=True, exist_ok=True)
    write_codes(Codes(folder, header, rows, names, list(unreadable)), centroids, folder, "<p>codes</p>")
    return Codes.read(folder)


class Killed(Exception):
    """What ends a training in the place of a signal."""


def killed_at(training: type, step: int):
    """The ``training_step`` of a Lightning module that ends in one step."""
    whole = training.training_step

    def training_step(self, batch, batch_idx):
        if self.global_step == step:
            raise Killed
        return whole(self, batch, batch_idx)

    return training_step
