"""Which framework is taken for a config; the packages need not be installed."""

from pathlib import Path

import pytest

from data_plugin.frameworks import framework as framework_module
from data_plugin.frameworks.framework import Framework
from data_plugin.frameworks.registry import DETECTRON2, FRAMEWORKS, MMDET, MMSEG, find_framework, frameworks_of
from data_plugin.utils.errors import UserError


@pytest.fixture
def installed(monkeypatch):
    """Pretend that these frameworks are installed, and no other."""

    def pretend(*frameworks: Framework) -> None:
        names = {framework.name for framework in frameworks}
        monkeypatch.setattr(framework_module, "is_installed", names.__contains__)

    return pretend


def test_every_framework_has_a_task():
    assert frameworks_of("detection") == (DETECTRON2, MMDET)
    assert frameworks_of("segmentation") == (MMSEG,)


def test_the_first_installed_that_has_the_config_is_taken(installed):
    installed(DETECTRON2, MMDET)
    assert find_framework(None, "faster_rcnn_c4_voc", "detection") == DETECTRON2
    installed(MMDET)
    assert find_framework(None, "faster_rcnn_c4_voc", "detection") == MMDET


def test_an_ending_tells_the_framework(installed):
    installed(DETECTRON2, MMDET)
    assert find_framework(None, "winner/config.py", "detection") == MMDET
    assert find_framework(None, "winner/config.yaml", "detection") == DETECTRON2


def test_a_config_that_one_framework_alone_has_picks_it(installed, monkeypatch):
    installed(DETECTRON2, MMDET)
    assert find_framework(None, "mask_rcnn_fpn_cityscapes", "detection") == DETECTRON2
    ours = type(MMDET.configs).ours
    monkeypatch.setattr(
        type(MMDET.configs), "ours", lambda names, name: ours(names, name) if names == MMDET.configs else None
    )
    assert find_framework(None, "faster_rcnn_c4_voc", "detection") == MMDET


def test_a_framework_of_another_task_or_of_none_is_refused(installed):
    installed(*FRAMEWORKS)
    assert find_framework("mmdet", "faster_rcnn_c4_voc", "detection") == MMDET
    for name in ("mmseg", "yolo"):
        with pytest.raises(UserError, match=f"'{name}' is not a framework here; expected one of detectron2, mmdet"):
            find_framework(name, "faster_rcnn_c4_voc", "detection")


def test_what_is_not_installed_says_how_to_install_it(installed):
    installed()
    with pytest.raises(UserError, match=r"none of detectron2, mmdet is installed; .*data_plugin\[openmmlab\]"):
        find_framework(None, "faster_rcnn_c4_voc", "detection")
    with pytest.raises(UserError, match=r"detectron2 is not installed; .*data_plugin\[detectron2\]"):
        find_framework("detectron2", "faster_rcnn_c4_voc", "detection")
    with pytest.raises(UserError, match="mmdet is not installed"):
        find_framework(None, "winner/config.py", "detection")
    with pytest.raises(UserError, match="mmseg is not installed"):
        MMSEG.open("fcn_d8_cityscapes")


def test_our_configs_are_found_by_name_and_others_by_path(tmp_path: Path):
    for framework in FRAMEWORKS:
        name = "fcn_d8_cityscapes" if framework == MMSEG else "faster_rcnn_c4_voc"
        assert framework.configs.find(name).name == f"{name}{framework.configs.ending}"
        assert framework.configs.find(name).parent.name == framework.name
        own = tmp_path / f"own{framework.configs.ending}"
        own.touch()
        assert framework.configs.find(str(own)) == own
