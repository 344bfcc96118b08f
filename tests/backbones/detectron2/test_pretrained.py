"""detectron2's ``DATAResNet`` from the folder of a winner."""

import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.layers import FrozenBatchNorm2d
from torch.nn import GroupNorm

from data_plugin import Arch, UserError
from data_plugin.backbones import DATAResNet as PlainDATAResNet
from data_plugin.backbones.detectron2 import DATAResNet
from data_plugin.supernet.backbone_files import save_backbone

ARCH = Arch.parse("d1-2-1-2_w8-8-16-16-32")


@pytest.fixture
def network(tmp_path) -> PlainDATAResNet:
    network = PlainDATAResNet(ARCH).eval()
    for value in network.state_dict().values():
        if value.ndim == 1:
            value.uniform_(0.5, 1.5)
    save_backbone(tmp_path, network)
    return network


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": "FrozenBN"},
        {"norm": "SyncBN", "freeze_at": 5},
        {"freeze_at": 2, "out_features": ["res3", "res5"]},
        {"out_features": ["res4"]},  # of a C4 detector, whose head has stage 4
    ],
)
def test_a_winner_is_loaded_with_the_options_of_the_class(network, tmp_path, options):
    found = DATAResNet.from_pretrained(tmp_path, **options)
    assert type(found) is DATAResNet
    assert not found.training
    images = torch.rand(1, 3, 64, 64)
    expected = dict(zip(("res2", "res3", "res4", "res5"), network(images), strict=True))
    maps = found(images)
    assert list(maps) == options.get("out_features", list(expected))
    for name, value in maps.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    if options.get("norm") == "FrozenBN":
        assert isinstance(found.layer4[0].bn1, FrozenBatchNorm2d)


def test_weights_that_the_network_has_no_place_for_are_refused(network, tmp_path):
    with pytest.raises(UserError, match=r"backbone.safetensors does not hold the weights of .* unexpected"):
        DATAResNet.from_pretrained(tmp_path, norm=lambda channels: GroupNorm(2, channels))
    with pytest.raises(UserError, match="out_features is"):
        DATAResNet.from_pretrained(tmp_path, out_features=["res6"])
