"""Sub-nets that were each trained on images of one colour, as far as their codes say so."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from samples import SPACE, random_supernet

from data_plugin import embed_images
from data_plugin.backbones import RoutedResNet, extract
from data_plugin.images.input_format import InputFormat
from data_plugin.supernet.backbone_files import save_backbone
from data_plugin.supernet.checkpoint import Groups, RoutedSupernet, SupernetInfo, save_supernet

COLOURS = {"red": (210, 30, 30), "green": (30, 200, 30), "blue": (30, 40, 210), "grey": (130, 130, 130)}


def draw(folder: Path, colour: str, count: int, seed: int, size: tuple[int, int] = (48, 40)) -> Path:
    """Noise around a colour."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        noise = rng.integers(-30, 30, (*size, 3))
        pixels = (np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{colour} {index:02d}.png")
    return folder


def routed_supernet(codes: str) -> RoutedSupernet:
    """A supernet of four sub-nets of random weights, all of them apart."""
    groups = Groups(groups=2, levels=2, codes=codes)
    info = SupernetInfo(SPACE, "simsiam", InputFormat.imagenet(), {"image_size": 32}, groups)
    branches = []
    for seed in range(2):
        torch.manual_seed(seed)
        branch = RoutedResNet(SPACE, groups=2, levels=2).eval()
        with torch.no_grad():
            for value in branch.parameters():
                value += 0.1 * value.abs().mean() * torch.randn_like(value)
        branches.append(branch)
    return RoutedSupernet(info, *branches)


@dataclass(frozen=True)
class Trained:
    """A pre-training's files.

    Args:
        supernet: the supernet.
        codes: the codes that it was trained with.
        paths: the sub-net of every colour.
    """

    supernet: Path
    codes: Path
    paths: dict[str, tuple[int, ...]]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A supernet of four sub-nets, and codes that give each colour one of them."""
    pytest.importorskip("sklearn", reason="clusters need scikit-learn")
    pytest.importorskip("torchvision", reason="images are cut by torchvision")
    from data_plugin import cluster_store

    root = tmp_path_factory.mktemp("trained")
    for colour in COLOURS:
        draw(root / "images", colour, 8, 0)
    save_backbone(root / "backbone", extract(random_supernet().query, SPACE.largest))
    given = {"image_size": 32, "workers": 0, "device": "cpu"}
    embed_images(root / "images", backbone=root / "backbone", out=root / "store", **given)
    codes = cluster_store(root / "store", out=root / "codes", levels=2, children=2)
    save_supernet(root / "supernet.safetensors", routed_supernet(codes.fingerprint()))
    paths = {name.split()[0]: tuple(digits) for name, digits in zip(codes.names, codes.digits.tolist(), strict=True)}
    assert len(set(paths.values())) == 4
    return Trained(root / "supernet.safetensors", codes.folder, paths)


@pytest.fixture
def control(trained: Trained, tmp_path: Path) -> Trained:
    """The same with images that were dealt at random."""
    from data_plugin import cluster_store

    store = trained.codes.parent / "store"
    codes = cluster_store(store, out=tmp_path / "control" / "codes", levels=2, children=2, random=True)
    save_supernet(tmp_path / "control" / "supernet.safetensors", routed_supernet(codes.fingerprint()))
    return Trained(tmp_path / "control" / "supernet.safetensors", codes.folder, {})


@pytest.fixture
def drawn(tmp_path: Path) -> Callable[..., Path]:
    """Draws a task's images of some colours, so many of each."""

    def draw_all(name: str = "task", **counts: int) -> Path:
        for colour, count in counts.items():
            draw(tmp_path / name, colour, count, 1)
        return tmp_path / name

    return draw_all


@pytest.fixture(autouse=True)
def _read_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_plugin.search.downstream.spare_cores", lambda: 0)
