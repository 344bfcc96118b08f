"""Data sets of which a part, or everything, is not where it was looked for."""

import os
import shutil
import warnings
from pathlib import Path

import pytest
from samples import draw_own_coco, unchanged_catalogs

from data_plugin.frameworks.registry import DETECTRON2
from data_plugin.utils.errors import UserError


@pytest.fixture
def catalogs(monkeypatch):
    """Makes detectron2's catalogs look below a folder, as DETECTRON2_DATASETS does where detectron2 is imported."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.data import MetadataCatalog

    def look(root: Path) -> None:
        monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
        for year, split in (("2007", "trainval"), ("2007", "test"), ("2012", "trainval")):
            vars(MetadataCatalog.get(f"voc_{year}_{split}")).update(dirname=str(root / f"VOC{year}"))
        for split in ("train", "val"):
            places = {"image_root": root / f"coco/{split}2017", "json_file": root / f"coco/instances_{split}2017.json"}
            vars(MetadataCatalog.get(f"coco_2017_{split}")).update({name: str(path) for name, path in places.items()})

    with unchanged_catalogs():
        yield look


def test_detectron2s_own_convention_leaves_out_an_absent_year_too(catalogs, drawn_voc: Path):
    catalogs(drawn_voc)
    with pytest.warns(UserWarning, match="has no VOC2012, so training uses voc_2007_trainval alone"):
        config = DETECTRON2.open("faster_rcnn_c4_voc")
    assert len(config.images()) == 8
    assert config.data_sets == [f"voc_2007_trainval in {drawn_voc / 'VOC2007'}"]


def test_the_variable_is_quoted_and_a_layout_right_below_it_is_seen(catalogs, tmp_path: Path, monkeypatch):
    catalogs(tmp_path)
    config = DETECTRON2.open("faster_rcnn_fpn_coco")
    with pytest.raises(UserError, match=rf"coco/train2017 .*DETECTRON2_DATASETS is {tmp_path}; .* or .* --demo-data"):
        config.images()
    draw_own_coco(tmp_path)
    with pytest.raises(UserError, match=rf"right below that folder: give it as --data-root {tmp_path}$"):
        config.images()
    monkeypatch.delenv("DETECTRON2_DATASETS")
    with pytest.raises(UserError, match="DETECTRON2_DATASETS is not set"):
        config.images()


def test_without_data_it_is_said_where_they_were_looked_for(example, tmp_path: Path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    if example.framework is DETECTRON2:  # where an earlier training in this process has left its data root
        request.getfixturevalue("catalogs")(tmp_path)
    with pytest.raises(UserError, match="try a search on drawn images with --demo-data") as caught:
        example.framework.open(example.config, example.small).images()
    assert any(word.startswith(os.sep) for word in str(caught.value).split())


def test_data_sets_are_named_with_their_folders(example):
    folder = "leftImg8bit/train" if example.framework.task == "segmentation" else "VOC2007"
    (said,) = example.open().data_sets
    assert said.endswith(f" in {example.data_root / folder}")
    assert not example.open().lacking


def test_a_data_root_with_2012_alone_is_searched(detection, tmp_path: Path):
    shutil.copytree(detection.data_root / "VOC2007", tmp_path / "VOC2012")
    with pytest.warns(UserWarning, match=r"VOC2007"):
        config = detection.framework.open(detection.config, detection.small[:1], tmp_path)
    assert len(config.images()) == 8
    (lacking,) = config.lacking
    assert lacking.startswith(f"{tmp_path}/VOC2007/ImageSets/Main/test.txt is missing; there are VOC2012's test.txt, ")
    with pytest.raises(UserError, match=r"VOC2007.* is missing.*there are VOC2012's test.txt, VOC2012's trainval.txt"):
        detection.framework.open("faster_rcnn_c4_voc_demo", (), tmp_path)


def test_lists_of_other_names_are_named_with_what_picks_them(detection, tmp_path: Path):
    root = shutil.copytree(detection.data_root, tmp_path / "data")
    lists = root / "VOC2007" / "ImageSets" / "Main"
    shutil.copy(lists / "test.txt", lists / "dog_val.txt")
    (lists / "test.txt").rename(lists / "val.txt")
    (lacking,) = detection.open(data_root=root).lacking
    keys = {"detectron2": "DATASETS.TRAIN and DATASETS.TEST pick one", "mmdet": "ann_file .* pick one"}
    assert lacking.startswith(f"{lists}/test.txt is missing; there are VOC2007's trainval.txt, VOC2007's val.txt, and ")
    assert all(word in lacking for word in keys[detection.framework.name].split(" .* "))
    (lists / "trainval.txt").rename(lists / "train.txt")
    with pytest.raises(UserError, match=rf"trainval.txt is missing; .*val.txt, and {keys[detection.framework.name]}"):
        detection.open(data_root=root).images()


def test_a_relative_data_root_is_the_same_one(drawn_voc: Path, monkeypatch):
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    monkeypatch.chdir(drawn_voc.parent)
    with warnings.catch_warnings(action="ignore"):
        config = DETECTRON2.open("faster_rcnn_c4_voc", (), Path(drawn_voc.name))
    assert config.data_sets == [f"voc_2007_trainval in {drawn_voc.resolve() / 'VOC2007'}"]
