"""What every framework's adapter has to do alike."""

import pytest
import torch

from data_plugin.errors import UserError
from data_plugin.framework import DETECTION, load_adapter
from data_plugin.input_format import InputFormat


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
