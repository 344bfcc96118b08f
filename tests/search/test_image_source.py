"""Searching on images that are in no data set."""

import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from samples import SMALL_C4, SPACE, random_supernet_file

from data_plugin import search_supernet
from data_plugin.frameworks.registry import DETECTRON2, MMDET, MMSEG
from data_plugin.images.batch import draw_batches
from data_plugin.images.open import open_images
from data_plugin.search.found import Search
from data_plugin.search.resume import PartialSearch
from data_plugin.tools import search_det, search_seg
from data_plugin.utils.errors import UserError

SMALL_FCN = ["test_dataloader.num_workers=0", "test_dataloader.dataset.pipeline.1.scale=(128,64)"]
"""Options that make the images of ``fcn_d8_cityscapes`` small."""

pytestmark = pytest.mark.filterwarnings("ignore:TRAINING DATA IS NOT", "ignore:256 images were asked for")


@pytest.fixture
def supernet(tmp_path: Path) -> Path:
    return random_supernet_file(tmp_path / "supernet.safetensors")


EXAMPLES = {
    MMDET: ("faster_rcnn_c4_voc", SMALL_C4["mmdet"]),
    DETECTRON2: ("faster_rcnn_c4_voc", SMALL_C4["detectron2"]),
    MMSEG: ("fcn_d8_cityscapes", SMALL_FCN),
}


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data set where any framework looks for one."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.delenv("DATA_ROOT", raising=False)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "empty"))


def detector(supernet: Path, framework: str, out: Path, *more: str) -> list[str]:
    sizes = ["--group", "0-1", "--samples", "3", "--image-count", "3", "--batch-size", "1", "--device", "cpu"]
    named = ["--config", "faster_rcnn_c4_voc", "--framework", framework, "--supernet", str(supernet)]
    return [*named, *sizes, "--out", str(out), *more, "--opts", *SMALL_C4[framework]]


def scores(out: Path) -> dict[str, float]:
    return {row["arch"]: row["score"] for row in json.loads((out / "search.json").read_text())["candidates"]}


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [MMDET, DETECTRON2], ids=lambda framework: framework.name)
def test_the_same_files_are_the_same_images_whether_in_a_data_set_or_not(
    chosen, supernet, drawn_voc, nowhere, tmp_path, capsys
):
    pytest.importorskip(chosen.name, reason=f"{chosen.name} is not installed")
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in (drawn_voc / "VOC2007" / "ImageSets" / "Main" / "trainval.txt").read_text().split():
        shutil.copy(drawn_voc / "VOC2007" / "JPEGImages" / f"{name}.jpg", folder)
    assert search_det.main(detector(supernet, chosen.name, tmp_path / "in", "--data-root", str(drawn_voc))) == 0
    assert search_det.main(detector(supernet, chosen.name, tmp_path / "out", "--images", str(folder))) == 0
    assert f"3 of 8, from {folder}" in capsys.readouterr().out
    assert scores(tmp_path / "out") == pytest.approx(scores(tmp_path / "in"), rel=1e-5)
    found, expected = (Search.read(tmp_path / name).report for name in ("out", "in"))
    assert found.images == expected.images
    assert found.run["image_source"] == str(folder)
    assert f"compared on 3 images from {folder}" in str(Search.read(tmp_path / "out"))
    assert f"3 images from {folder} at C5" in (tmp_path / "out" / "report.html").read_text()
    winner = tmp_path / "out" / found.winners[0].folder
    installed = (each for each in (MMDET, DETECTRON2) if each.is_installed)
    configs = {f"faster_rcnn_c4_voc{each.configs.ending}" for each in installed}
    assert {path.name for path in winner.iterdir()} >= {*configs, "backbone.pth"}
    # Without any images there is nothing to search on, which is found out before anything is written.
    assert search_det.main(detector(supernet, chosen.name, tmp_path / "none")) == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_segmenter_sees_them_as_those_of_its_data_set(supernet, drawn_cityscapes, nowhere, tmp_path):
    pytest.importorskip(MMSEG.name, reason="mmseg is not installed")
    sizes = ["--group", "0-1", "--samples", "2", "--batch-size", "1", "--device", "cpu"]
    named = ["--config", "fcn_d8_cityscapes", "--supernet", str(supernet), *sizes]
    data = {
        "in": ["--data-root", str(drawn_cityscapes)],
        "out": ["--images", str(drawn_cityscapes / "leftImg8bit" / "train" / "aachen")],
    }
    for name, where in data.items():
        assert search_seg.main([*named, *where, "--out", str(tmp_path / name), "--opts", *SMALL_FCN]) == 0
    assert scores(tmp_path / "out") == pytest.approx(scores(tmp_path / "in"), rel=1e-5)


@pytest.mark.parametrize("chosen", [MMDET, DETECTRON2], ids=lambda framework: framework.name)
def test_configs_get_their_classes_without_their_data(chosen, nowhere, tmp_path):
    pytest.importorskip(chosen.name, reason=f"{chosen.name} is not installed")
    config = chosen.open("faster_rcnn_c4_voc", SMALL_C4[chosen.name], None, ["raccoon", "kangaroo"])
    path = tmp_path / f"config{chosen.configs.ending}"
    config.write(SPACE.smallest, tmp_path / "backbone.pth", path)
    again = tmp_path / path.name.replace("config", "again")
    chosen.open(str(path)).write(SPACE.smallest, tmp_path / "backbone.pth", again)
    for written in (path.read_text(), again.read_text()):
        assert "raccoon" in written
        assert re.search(r"num_classes ?[=:] ?2\b", written, re.IGNORECASE)


def no_folder(folder: Path) -> None:
    """Nothing."""


def empty(folder: Path) -> None:
    folder.mkdir()


def no_image(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_folder, "is not a folder; expected one that holds images"),
        (empty, "holds no image file; expected some that end in .bmp"),
        (no_image, "a.jpg cannot be read"),
    ],
)
@pytest.mark.parametrize("chosen", [MMDET, DETECTRON2], ids=lambda framework: framework.name)
def test_images_that_are_none_are_named_and_nothing_is_written(
    chosen, supernet, nowhere, tmp_path, capsys, make, message
):
    pytest.importorskip(chosen.name, reason=f"{chosen.name} is not installed")
    make(tmp_path / "images")
    few = ["--images", str(tmp_path / "images"), "--image-count", "1"]
    assert search_det.main(detector(supernet, chosen.name, tmp_path / "out", *few)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(tmp_path / "images") in error
    assert message in error
    assert not (tmp_path / "out").exists()


def picture(path: Path) -> Path:
    Image.new("RGB", (8, 8)).save(path)
    return path


@pytest.fixture(params=EXAMPLES)
def small(request, tmp_path, nowhere):
    """A config of every framework in turn, without data."""
    pytest.importorskip(request.param.name, reason=f"{request.param.name} is not installed")
    return request.param.open(*EXAMPLES[request.param])


def shards(folder: Path, of: Sequence[Path], *, prefix: str = "") -> Path:
    """Files in two shards, in another order than that of their names."""
    folder.mkdir()
    for number in range(2):
        with tarfile.open(folder / f"{number}.tar", "w") as shard:
            for path in of[number::2][::-1]:
                shard.add(path, prefix + path.name)
    return folder


def test_images_in_shards_are_those_of_a_folder(small, drawn_voc, tmp_path):
    files = sorted((drawn_voc / "VOC2007" / "JPEGImages").iterdir())[:6]
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in files:
        shutil.copy(path, folder)
    temporary = sorted(Path(tempfile.gettempdir()).iterdir())
    expected = list(draw_batches(small.images_of(open_images(folder)), 4, 2, seed=1))
    for packed in (shards(tmp_path / "shards", files), shards(tmp_path / "dotted", files, prefix="./")):
        found = list(draw_batches(small.images_of(open_images(packed)), 4, 2, seed=1))
        assert [batch.names for batch in found] == [batch.names for batch in expected]
        assert all(torch.equal(mine.images, other.images) for mine, other in zip(found, expected, strict=True))
    one = list(draw_batches(small.images_of(open_images(packed / "1.tar")), None, 4, seed=1))
    assert sorted(name for batch in one for name in batch.names) == [path.name for path in files[1::2]]
    assert sorted(Path(tempfile.gettempdir()).iterdir()) == temporary


def test_an_unreadable_image_is_named_in_its_shard(small, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    images = open_images(shards(tmp_path / "shards", [tmp_path / "a.png", picture(tmp_path / "b.png")]))
    with pytest.raises(UserError, match=rf"{tmp_path}/shards/0.tar/a.png cannot be read") as caught:
        _ = small.images_of(images)[0]
    assert tempfile.gettempdir() + "/tmp" not in str(caught.value)


def test_members_of_one_name_are_told_apart_by_their_shards(tmp_path):
    for number in range(2):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as shard:
            shard.add(picture(tmp_path.parent / "a.png"), "a.png")
    assert open_images(tmp_path).keys == ["0.tar/a.png", "1.tar/a.png"]


def test_a_search_draws_the_same_images_of_shards_and_of_a_folder(config, arguments, tmp_path):
    (tmp_path / "folder").mkdir()
    files = [picture(tmp_path / "folder" / f"{name}.png") for name in "abcdef"]
    sources = {"unpacked": tmp_path / "folder", "packed": shards(tmp_path / "shards", files)}
    for name, source in sources.items():
        assert search_det.main(arguments(tmp_path / name, "--images", str(source), "--image-count", "3")) == 0
    unpacked, packed = (Search.read(tmp_path / name).report for name in sources)
    assert packed.images.names == unpacked.images.names
    assert packed.run["image_source"] == str(tmp_path / "shards")


def test_images_are_named_below_their_folder_and_safe_from_an_output_folder(config, arguments, tmp_path, capsys):
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    picture(folder / "a.png")
    picture(folder / "more" / "a.png")
    assert search_det.main(arguments(tmp_path / "out", "--images", str(folder))) == 0
    names = json.loads((tmp_path / "out" / "search.json").read_text())["images"]["names"]
    assert sorted(names) == ["a.png", "more/a.png"]
    assert search_det.main(arguments(folder, "--overwrite", "--images", str(folder))) == 2
    assert "would delete the images" in capsys.readouterr().err
    assert (folder / "a.png").is_file()
    assert search_det.main(arguments(tmp_path / "both", "--images", str(folder), "--demo-data")) == 2
    assert "expected one of them" in capsys.readouterr().err


def test_a_killed_search_goes_on_with_the_same_images_alone(config, arguments, tmp_path, capsys, monkeypatch):
    folder, other = tmp_path / "images", tmp_path / "other"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        picture(folder / name)
    shutil.copytree(folder, other)
    write = PartialSearch.write

    def dying(self, *given):
        write(self, *given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(PartialSearch, "write", dying)
        with pytest.raises(KeyboardInterrupt):
            search_det.main(arguments(tmp_path / "out", "--images", str(folder)))

    def refusal(*images: str) -> str:
        assert search_det.main(arguments(tmp_path / "out", "--resume", *images)) == 2
        return capsys.readouterr().err

    assert f"another image source ({str(folder)[:50]}" in refusal("--images", str(other))
    assert "another image source (" in refusal()
    picture(folder / "c.png")
    assert "another image source sha256 (" in refusal("--images", str(folder))
    (folder / "c.png").unlink()
    assert search_det.main(arguments(tmp_path / "out", "--resume", "--images", str(folder))) == 0


def test_python_takes_a_folder_as_text_or_as_a_path(config, supernet_file, tmp_path):
    picture(tmp_path / "a.png")
    for name, images in (("text", str(tmp_path)), ("path", tmp_path)):
        search = search_supernet(
            supernet_file, "faster_rcnn_c4_voc", out=tmp_path / name, group="0-1", images=images, device="cpu"
        )
        assert search.report.images.names == ["a.png"]
        assert search.report.run["image_source"] == str(tmp_path)
