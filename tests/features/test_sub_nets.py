"""Features of all sub-nets in one walk, beside each sub-net cut out and calibrated by itself."""

import pytest
import torch
from samples import SPACE

from data_plugin import UserError
from data_plugin.backbones import RoutedResNet, extract
from data_plugin.features.sub_nets import CalibratedSubNets
from data_plugin.space.arch import Arch
from data_plugin.supernet.calibration import calibrate


def apart(groups, levels):
    """A supernet of sub-nets of random weights, all of them different."""
    supernet = RoutedResNet(SPACE, groups, levels).eval()
    with torch.no_grad():
        for value in supernet.parameters():
            value += 0.1 * torch.randn_like(value)
    return supernet


@pytest.mark.parametrize(("groups", "levels"), [(2, 4), (3, 2), (2, 1), (4, 0)])
@pytest.mark.parametrize("arch", [SPACE.largest, Arch.parse("d1-2-1-2_w4-8-12-8-24")], ids=str)
def test_every_sub_net_has_the_features_that_it_has_alone(groups, levels, arch):
    supernet, images = apart(groups, levels), torch.randn(5, 3, 32, 32)
    calibration = [torch.randn(4, 3, 32, 32) for _ in range(3)]
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    sub_nets = CalibratedSubNets(supernet, arch, calibration)
    found = sub_nets.features(images)
    assert len(sub_nets.paths) == groups**levels
    assert found.shape == (groups**levels, 5, arch.out_channels[-1])
    for path, features in zip(sub_nets.paths, found, strict=True):
        network = extract(supernet, arch, path)
        calibrate([network], calibration)
        with torch.no_grad():
            torch.testing.assert_close(features, network.eval()(images)[-1].mean((2, 3)), rtol=1e-3, atol=1e-4)
    for name, value in supernet.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(module.training for module in supernet.modules())


def test_a_prefix_is_computed_once(monkeypatch):
    supernet, images = apart(2, 4), torch.randn(3, 3, 32, 32)
    sub_nets = CalibratedSubNets(supernet, SPACE.smallest, [images])
    run, stages = RoutedResNet.stage, []

    def counted(self, index, *given):
        stages.append(index)
        return run(self, index, *given)

    monkeypatch.setattr(RoutedResNet, "stage", counted)
    sub_nets.features(images)
    assert [stages.count(index) for index in range(4)] == [2, 4, 8, 16]


def test_statistics_of_no_images_and_networks_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="batch-norm statistics need images"):
        CalibratedSubNets(apart(2, 1), SPACE.smallest, [])
    with pytest.raises(UserError, match="does not fit inside this supernet"):
        CalibratedSubNets(apart(2, 1), Arch.resnet50(), [torch.randn(2, 3, 32, 32)])
