import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from samples import SMALL_C4, SMALL_FCN, unchanged_catalogs

from data_plugin import Arch
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.frameworks.framework import Framework
from data_plugin.frameworks.framework_config import FrameworkConfig
from data_plugin.frameworks.registry import DETECTRON2, MMDET, MMSEG
from data_plugin.supernet.backbone_files import PTH_FILE, save_backbone

ARCH = Arch.parse("d1-1-1-1_w8-8-12-16-24")


@dataclass(frozen=True)
class Example:
    """A framework with one of our configs, small drawn data, and options: for small images, and for two short steps."""

    framework: Framework
    config: str
    data_root: Path
    small: tuple[str, ...]
    short: Sequence[str]

    def open(self, *options: str, data_root: Path | None = None) -> FrameworkConfig:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="TRAINING DATA")
            return self.framework.open(self.config, [*self.small, *options], data_root or self.data_root)


VOC = "faster_rcnn_c4_voc"
EXAMPLES: dict[str, Callable[[Path, Path], Example]] = {
    "detectron2": lambda voc, cityscapes: Example(
        DETECTRON2, VOC, voc, ("INPUT.MIN_SIZE_TEST=64", "DATALOADER.NUM_WORKERS=0"), SMALL_C4["detectron2"]
    ),
    "mmdet": lambda voc, cityscapes: Example(
        MMDET,
        VOC,
        voc,
        ("test_dataloader.num_workers=0", "test_dataloader.dataset.pipeline.1.scale=(96,64)"),
        SMALL_C4["mmdet"],
    ),
    "mmseg": lambda voc, cityscapes: Example(
        MMSEG,
        "fcn_d8_cityscapes",
        cityscapes,
        ("test_dataloader.num_workers=0", "test_dataloader.dataset.pipeline.1.scale=(96,64)"),
        SMALL_FCN,
    ),
}


@pytest.fixture(params=EXAMPLES)
def example(request, drawn_voc: Path, drawn_cityscapes: Path) -> Example:
    """Every installed framework in turn."""
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return EXAMPLES[request.param](drawn_voc, drawn_cityscapes)


@pytest.fixture
def winner(example, tmp_path: Path) -> Iterator[Path]:
    """The config of a small network that trains for two steps on small images."""
    save_backbone(tmp_path, DATAResNet(ARCH))
    path = tmp_path / f"winner{example.framework.configs.ending}"
    example.open(*example.short).write(ARCH, tmp_path / PTH_FILE, path)
    logging.disable()
    with unchanged_catalogs() if example.framework.name == "detectron2" else contextlib.nullcontext():
        yield path
    logging.disable(logging.NOTSET)


@pytest.fixture(params=("detectron2", "mmdet"))
def detection(request, drawn_voc: Path, drawn_cityscapes: Path) -> Example:
    """Every installed framework for detection in turn."""
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return EXAMPLES[request.param](drawn_voc, drawn_cityscapes)
