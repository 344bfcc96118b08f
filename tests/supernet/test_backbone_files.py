import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from data_plugin import SearchSpace, UserError
from data_plugin.backbones import DATAResNet
from data_plugin.supernet.backbone_files import save_backbone
from data_plugin.supernet.calibration import calibrate

ARCH = SearchSpace.micro().smallest


def test_round_trip_in_torchvisions_names(tmp_path):
    network = DATAResNet(ARCH).eval()
    save_backbone(tmp_path, network)
    assert json.loads((tmp_path / "arch.json").read_text()) == ARCH.to_json()
    plain = torch.load(tmp_path / "backbone.pth", weights_only=True)
    safe = load_file(tmp_path / "backbone.safetensors")
    assert set(plain) == set(safe) == set(network.state_dict())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(DATAResNet.from_pretrained(tmp_path)(images), network(images), strict=True):
            assert torch.equal(ours, theirs)


def test_weights_of_another_architecture_are_refused(tmp_path):
    save_backbone(tmp_path, DATAResNet(ARCH))
    (tmp_path / "arch.json").write_text(json.dumps(SearchSpace.micro().largest.to_json()))
    with pytest.raises(UserError, match=r"missing .* of another shape"):
        DATAResNet.from_pretrained(tmp_path)
    weights = load_file(tmp_path / "backbone.safetensors")
    save_file({**weights, "fc.weight": torch.rand(2)}, tmp_path / "backbone.safetensors")
    (tmp_path / "arch.json").write_text(json.dumps(ARCH.to_json()))
    with pytest.raises(UserError, match=r"1 unexpected \(fc.weight\)"):
        DATAResNet.from_pretrained(tmp_path)


def test_a_folder_without_a_network_is_refused(tmp_path):
    with pytest.raises(UserError, match="has neither"):
        DATAResNet.from_pretrained(tmp_path)


def test_calibrated_statistics_are_those_of_the_images():
    torch.manual_seed(0)
    network = DATAResNet(ARCH).eval()
    batches = [torch.randn(4, 3, 64, 64) * scale + scale for scale in (1, 2, 3)]
    calibrate([network], batches)
    assert not network.training
    stem = [network.conv1(images) for images in batches]
    mean = torch.stack([x.mean(dim=(0, 2, 3)) for x in stem]).mean(dim=0)
    variance = torch.stack([x.var(dim=(0, 2, 3)) for x in stem]).mean(dim=0)
    torch.testing.assert_close(network.bn1.running_mean, mean)
    torch.testing.assert_close(network.bn1.running_var, variance)
    assert all(m.momentum == 0.1 for m in network.modules() if isinstance(m, nn.BatchNorm2d))


def test_calibrated_on_one_batch_evaluation_normalises_as_training_does():
    torch.manual_seed(0)
    network, images = DATAResNet(ARCH), torch.randn(16, 3, 128, 128)
    with torch.no_grad():
        trained = network.train()(images)[-1]
        calibrate([network], [images])
        torch.testing.assert_close(network.eval()(images)[-1], trained, rtol=0.02, atol=0.02)
