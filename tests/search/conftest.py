from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from samples import SPACE, RandomImages, random_supernet_file
from torch import nn

from data_plugin.frameworks.framework import Framework
from data_plugin.frameworks.framework_config import FrameworkConfig
from data_plugin.frameworks.registry import MMDET
from data_plugin.images.batch import ImageSource
from data_plugin.images.image_files import Images
from data_plugin.images.input_format import InputFormat
from data_plugin.space.cost import flops
from data_plugin.space.resolution import Resolution
from data_plugin.supernet.checkpoint import Supernet, load_supernet


class RandomConfig(FrameworkConfig):
    """A config of random images, whose answers a test may change."""

    def __init__(self) -> None:
        self.source: ImageSource = RandomImages([(64, 64)] * 3)
        self.asked_taps: tuple[str, ...] = ("C5",)
        self.runs_at = Resolution()
        self.feeds = InputFormat.imagenet()
        self.opened_at: Path | None = None
        self.misses: Sequence[str] = ()

    @property
    def input_format(self) -> InputFormat:
        return self.feeds

    @property
    def taps(self) -> tuple[str, ...]:
        return self.asked_taps

    @property
    def resolution(self) -> Resolution:
        return self.runs_at

    @property
    def data_sets(self) -> Sequence[str]:
        return ["random images"]

    @property
    def lacking(self) -> Sequence[str]:
        return self.misses

    def images(self) -> ImageSource:
        return self.source

    def images_of(self, images: Images) -> ImageSource:
        return RandomImages([(64, 64)] * len(images), images.keys)

    def write(self, arch, weights, path) -> None:
        path.write_text(f"{arch} {weights}")

    def finetune(self, out, **options):
        raise AssertionError("a search trains nothing")


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> RandomConfig:
    """The config that every search finds, so that search is tested apart from any framework."""
    answers = RandomConfig()

    class RandomFramework(Framework):
        def open(self, config, options=(), data_root=None, classes=None) -> FrameworkConfig:
            answers.opened_at = data_root
            return answers

    framework = RandomFramework(**{field.name: getattr(MMDET, field.name) for field in fields(MMDET)})
    monkeypatch.setattr("data_plugin.search.downstream.find_framework", lambda *_: framework)
    monkeypatch.setattr("data_plugin.search.downstream.frameworks_of", lambda task: (framework,))
    return answers


@pytest.fixture(scope="module")
def supernet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_supernet_file(tmp_path_factory.mktemp("supernet") / "supernet.safetensors")


@pytest.fixture(scope="module")
def supernet(tmp_path_factory: pytest.TempPathFactory) -> Supernet:
    """A supernet with statistics as after some training, so that the norm policies differ."""
    found = load_supernet(random_supernet_file(tmp_path_factory.mktemp("trained") / "supernet.safetensors"))
    torch.manual_seed(0)
    for network in (found.query, found.key):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
                module.running_mean.normal_(std=0.2)
                module.running_var.uniform_(0.5, 1.5)
    return found


MIDDLE = sorted(flops(arch) for arch in SPACE)[len(SPACE) // 2] / 1e9


@pytest.fixture(scope="session")
def groups() -> list[str]:
    """Two groups that share the tiny space's networks evenly."""
    return [f"0-{MIDDLE:.6f}", f"{MIDDLE:.6f}-1"]


@pytest.fixture
def arguments(supernet_file: Path, groups: Sequence[str]):
    """Makes the arguments of a search tool: ``arguments(out, *more)``; 10 networks of each group if nothing is said."""

    def make(out: Path, *more: str, supernet: Path = supernet_file) -> list[str]:
        always = ["--config", "faster_rcnn_c4_voc", "--supernet", str(supernet), "--out", str(out), "--device", "cpu"]
        always += ["--batch-size", "1"] if "--batch-size" not in more else []
        chosen = [] if "--group" in more else ["--group", *groups]
        samples = [] if {"--exhaustive", "--evolve"} & set(more) else ["--samples", "10"]
        return [*always, *chosen, *samples, *more]

    return make
