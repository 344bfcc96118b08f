"""OpenMMLab's ``DATAResNet`` from the folder of a winner."""

import pytest
import torch
from torch import nn

pytest.importorskip("mmdet", reason="MMDetection is not installed")

from data_plugin import Arch, UserError
from data_plugin.backbones import DATAResNet
from data_plugin.backbones.openmmlab.resnet import OpenMMLabResNet
from data_plugin.supernet.backbone_files import save_backbone

ARCH = Arch.parse("d1-2-1-2_w8-8-12-16-24")


@pytest.fixture
def network(tmp_path) -> DATAResNet:
    network = DATAResNet(ARCH).eval()
    for value in network.state_dict().values():
        if value.ndim == 1:
            value.uniform_(0.5, 1.5)
    save_backbone(tmp_path, network)
    return network


def test_a_winner_is_loaded_and_stays_when_a_model_is_initialised(network, tmp_path):
    found = OpenMMLabResNet.from_pretrained(str(tmp_path), norm_eval=False, frozen_stages=1)
    assert type(found) is OpenMMLabResNet
    found.init_weights()
    images = torch.rand(1, 3, 64, 64)
    for one, other in zip(found(images), network(images), strict=True):
        assert torch.equal(one, other)
    assert not found.layer1[0].conv1.weight.requires_grad
    assert found.train().layer2[0].bn1.training


def test_a_c4_backbone_takes_three_stages_of_the_file(network, tmp_path):
    found = OpenMMLabResNet.from_pretrained(tmp_path, num_stages=3, out_indices=(2,), norm_cfg={"type": "SyncBN"})
    assert isinstance(found.bn1, nn.SyncBatchNorm)
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(found(images)[0], network(images)[2])


def test_options_and_weights_that_do_not_fit_are_refused(network, tmp_path):
    with pytest.raises(UserError, match="cannot honour deep_stem=True"):
        OpenMMLabResNet.from_pretrained(tmp_path, deep_stem=True)
    with pytest.raises(UserError, match=r"does not hold the weights of .* unexpected"):
        OpenMMLabResNet.from_pretrained(tmp_path, norm_cfg={"type": "GN", "num_groups": 4})
