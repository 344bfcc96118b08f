"""MMSegmentation's ``DATAResNet`` from the folder of a winner."""

import pytest
import torch

pytest.importorskip("mmseg", reason="MMSegmentation is not installed")

from data_plugin.backbones import DATAResNet
from data_plugin.backbones.mmseg.resnet import MMSegResNet
from data_plugin.supernet.backbone_files import save_backbone


def test_a_winner_is_loaded_at_output_stride_8(tmp_path):
    options = {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4), "contract_dilation": True}
    network = DATAResNet("d1-2-1-2_w8-8-12-16-24", **options).eval()
    save_backbone(tmp_path, network)
    found = MMSegResNet.from_pretrained(tmp_path, **options)
    assert type(found) is MMSegResNet
    images = torch.rand(1, 3, 64, 64)
    for one, other in zip(found(images), network(images), strict=True):
        assert torch.equal(one, other)
    assert found.train().bn1.training
