"""What every framework's adapter has to do alike."""

import pytest
import torch

from data_plugin.frameworks.framework import DETECTION, load_adapter
from data_plugin.images.input_format import InputFormat
from data_plugin.utils.errors import UserError


@pytest.fixture(params=DETECTION)
def adapter(request):
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return load_adapter(request.param, "faster_rcnn_c4_voc")[1]


def options(adapter) -> list[str]:
    """Small images, no worker processes."""
    if adapter.__name__.endswith("detectron2"):
        return ["INPUT.MIN_SIZE_TEST=64", "DATALOADER.NUM_WORKERS=0"]
    return ["test_dataloader.num_workers=0"]


def test_the_recipe_reads_c5_of_images_as_pre_training_has_them(adapter, drawn_voc):
    config = adapter.load_config("faster_rcnn_c4_voc", [], drawn_voc)
    assert adapter.taps(config) == ("C5",)
    InputFormat.imagenet().require(adapter.input_format(config), "the recipe")


def test_c4_detectors_run_at_the_pre_trainings_strides(adapter, drawn_voc):
    config = adapter.load_config("faster_rcnn_c4_voc", [], drawn_voc)
    found = adapter.strides_and_dilations(config)
    assert found["strides"] == (1, 2, 2, 2)
    assert found["dilations"] == (1, 1, 1, 1)


def test_a_stage_4_that_keeps_stride_16_is_dilated(drawn_voc):
    for name, options in (
        ("detectron2", ["MODEL.RESNETS.RES5_DILATION=2", "MODEL.ROI_HEADS.NAME=StandardROIHeads"]),
        ("mmdet", ["model.roi_head.shared_head.stride=1", "model.roi_head.shared_head.dilation=2"]),
    ):
        pytest.importorskip(name, reason=f"{name} is not installed")
        adapter = load_adapter(name, "faster_rcnn_c4_voc")[1]
        found = adapter.strides_and_dilations(adapter.load_config("faster_rcnn_c4_voc", options, drawn_voc))
        assert found["strides"] == (1, 2, 2, 1)
        assert found["dilations"] == (1, 1, 1, 2)


def test_some_batches_are_those_of_all(adapter, drawn_voc):
    config = adapter.load_config("faster_rcnn_c4_voc", options(adapter), drawn_voc)
    batches = adapter.image_batches(config, 5, 2, seed=0)
    whole = list(batches)
    assert [len(batch.names) for batch in whole] == [2, 2, 1]
    for indices in ([1], [0, 2], []):
        some = batches.only(indices)
        assert len(some) == len(indices)
        for found, index in zip(some, indices, strict=True):
            assert found.names == whole[index].names
            assert torch.equal(found.images, whole[index].images)


def test_unknown_names_list_the_known_ones(adapter):
    with pytest.raises(UserError, match=r"'resnet' is neither a file nor .* faster_rcnn_c4_voc"):
        adapter.load_config("resnet", [], None)
