"""Networks built from the folder or the file of their weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from data_plugin import Arch, UserError
from data_plugin.backbones import DATAResNet
from data_plugin.supernet.backbone_files import save_backbone

ARCH = Arch.parse("d1-2-1-2_w8-8-12-16-24")


@pytest.fixture
def network() -> DATAResNet:
    network = DATAResNet(ARCH)
    for name, value in network.state_dict().items():
        if "running" in name:
            value.uniform_(0.5, 1.5)
        elif "num_batches" in name:
            value.fill_(7)
    return network.eval()


@pytest.fixture
def winner(network, tmp_path) -> Path:
    save_backbone(tmp_path / "winner", network)
    return tmp_path / "winner"


def equal_weights(one: nn.Module, other: nn.Module) -> bool:
    expected = other.state_dict()
    return all(torch.equal(value, expected[name]) for name, value in one.state_dict().items())


def alone(path: Path) -> Path:
    """A copy of a file with nothing beside it."""
    folder = path.parent / "alone"
    folder.mkdir()
    return Path(shutil.copy(path, folder))


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("place", ["", "backbone.safetensors", "backbone.pth"])
def test_a_winners_folder_and_its_files(network, winner, kind, place):
    found = DATAResNet.from_pretrained(kind(winner / place))
    assert type(found) is DATAResNet
    assert found.arch == ARCH
    assert not found.training
    assert equal_weights(found, network)
    images = torch.rand(1, 3, 64, 64)
    for one, other in zip(found(images), network(images), strict=True):
        assert torch.equal(one, other)


def test_a_folder_with_one_of_the_files_will_do(network, winner):
    (winner / "backbone.safetensors").unlink()
    assert equal_weights(DATAResNet.from_pretrained(winner), network)


def test_a_safetensors_file_alone_says_its_architecture(network, winner):
    assert equal_weights(DATAResNet.from_pretrained(alone(winner / "backbone.safetensors")), network)


def test_the_architecture_of_a_pth_file_alone_is_that_of_its_weights(network, winner):
    found = DATAResNet.from_pretrained(alone(winner / "backbone.pth"))
    assert found.arch == ARCH
    assert equal_weights(found, network)


def test_options_are_those_of_the_class(network, winner):
    options = {"num_stages": 3, "out_indices": (1, 2), "frozen_stages": 1, "strides": (1, 2, 1, 1)}
    found = DATAResNet.from_pretrained(winner, **options)
    assert not hasattr(found, "layer4")
    assert equal_weights(found, network)
    assert not found.layer1[0].conv1.weight.requires_grad
    assert [tuple(each.shape[1:]) for each in found(torch.rand(1, 3, 64, 64))] == [(48, 8, 8), (64, 8, 8)]


def test_weights_of_half_precision_and_without_counters_are_read(network, tmp_path):
    weights = {name: value.half() for name, value in network.state_dict().items() if "num_batches" not in name}
    save_file(weights, tmp_path / "half.safetensors")
    found = DATAResNet.from_pretrained(tmp_path / "half.safetensors").state_dict()
    for name, value in weights.items():
        assert torch.equal(found[name], value.float())


def test_torchvisions_own_weights_are_read_without_its_classifier(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.resnet50()
    weights = {name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")}
    torch.save(weights, tmp_path / "resnet50.pth")
    assert DATAResNet.from_pretrained(tmp_path / "resnet50.pth").arch == Arch.resnet50()
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    with pytest.raises(UserError, match=r"2 unexpected \(fc.weight, fc.bias\)"):
        DATAResNet.from_pretrained(tmp_path / "resnet50.pth")


def without(weights, name):
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: without(w, "layer2.1.bn1.weight"), r"weights of d1-2-1-2.*: 1 missing \(layer2.1.bn1.weight\)"),
        (lambda w: {**w, "layer2.0.extra": torch.zeros(1)}, r"1 unexpected \(layer2.0.extra\)"),
        (lambda w: {**w, "bn1.bias": torch.zeros(3)}, r"1 of another shape \(bn1.bias \(3,\) instead of \(8,\)\)"),
        (lambda w: {**w, "bn1.bias": torch.full((8,), torch.nan)}, "not finite, first in bn1.bias"),
    ],
)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_what_is_not_exactly_the_networks_is_refused(winner, change, message, ending):
    path = winner / f"backbone.{ending}"
    weights = change(load_file(winner / "backbone.safetensors"))
    torch.save(weights, path) if ending == "pth" else save_file(weights, path)
    with pytest.raises(UserError, match=message):
        DATAResNet.from_pretrained(path)


def test_another_architecture_beside_the_weights_is_refused(winner):
    (winner / "arch.json").write_text(json.dumps(Arch.resnet50().to_json()))
    with pytest.raises(
        UserError, match=rf"does not hold the weights of {Arch.resnet50()}: .* missing .* another shape"
    ):
        DATAResNet.from_pretrained(winner)
    (winner / "arch.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"arch.json is not text"):
        DATAResNet.from_pretrained(winner)
    (winner / "arch.json").write_text("resnet")
    with pytest.raises(UserError, match="'resnet' is not an architecture"):
        DATAResNet.from_pretrained(winner)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (
            {"state_dict": {"conv1.weight": torch.zeros(1)}},
            "more than tensors by name; expected weights in torchvision's",
        ),
        ({0: torch.zeros(1)}, "more than tensors by name"),
        ({"backbone.conv1.weight": torch.zeros(8, 3, 7, 7)}, r"no whole bottleneck ResNet \(conv1.weight is missing\)"),
        ({"conv1.weight": torch.zeros(())}, r"no whole bottleneck ResNet \(conv1.weight is missing\)"),
        ({}, r"no whole bottleneck ResNet \(conv1.weight is missing\)"),
        ([torch.zeros(1)], "holds a list; expected a dictionary of tensors"),
    ],
)
def test_files_of_something_else_are_refused(tmp_path, contents, message):
    torch.save(contents, tmp_path / "model.pth")
    with pytest.raises(UserError, match=message):
        DATAResNet.from_pretrained(tmp_path / "model.pth")


def test_places_without_weights_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"has neither backbone.safetensors nor backbone.pth; expected the folder"):
        DATAResNet.from_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"none.pth is not a file"):
        DATAResNet.from_pretrained(tmp_path / "none.pth")


def test_another_kind_of_norm_is_refused(winner):
    with pytest.raises(UserError, match=r"unexpected .*running_mean"):
        DATAResNet.from_pretrained(winner, norm=lambda channels: nn.GroupNorm(2, channels))
