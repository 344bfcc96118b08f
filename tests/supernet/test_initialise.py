"""A supernet that starts from given weights computes what they compute."""

import pytest
import torch
from safetensors.torch import save_file
from samples import SPACE, random_supernet, random_supernet_file, used
from torch import nn
from torchvision.models import resnet18, resnet50
from torchvision.models.resnet import Bottleneck, ResNet

from data_plugin import SearchSpace, UserError
from data_plugin.backbones import DATAResNet, DynamicResNet
from data_plugin.space.arch import Arch
from data_plugin.supernet.foreign_weights import read_backbone
from data_plugin.supernet.initialise import start_from

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def started(path, space=SPACE):
    torch.manual_seed(3)
    network = DynamicResNet(space)
    return network, start_from(network, read_backbone(path))


@pytest.fixture
def small(tmp_path):
    torch.manual_seed(2)
    network = used(DATAResNet(Arch(5, (6, 9, 10, 16), (1, 2, 2, 1))))
    torch.save(network.state_dict(), tmp_path / "small.pth")
    return network, tmp_path / "small.pth"


@pytest.mark.parametrize("training", [False, True])
def test_a_wider_and_deeper_supernet_has_the_same_function(small, training):
    network, path = small
    supernet, found = started(path)
    maps = supernet.train(training)(IMAGES, SPACE.largest)
    for ours, theirs in zip(maps, network.train(training)(IMAGES), strict=True):
        copies = torch.arange(ours.shape[1]) % theirs.shape[1]
        torch.testing.assert_close(ours, theirs[:, copies], rtol=1e-4, atol=1e-5)
    assert (found.taken, found.new_blocks, found.lost_blocks) == (len(network.state_dict()), 3, ())


def test_the_network_of_the_sources_architecture_is_the_source(small):
    network, path = small
    supernet, _ = started(path)
    for ours, theirs in zip(supernet.eval()(IMAGES, network.arch), network.eval()(IMAGES), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_new_channels_and_blocks_learn_from_the_first_step(small):
    _, path = small
    supernet, _ = started(path)
    sum(features.square().mean() for features in supernet.train()(IMAGES, SPACE.largest)).backward()
    wide, narrow = supernet.blocks(1)[0].conv1.weight.grad, read_backbone(path).weights["layer2.0.conv1.weight"].shape
    assert wide[:, narrow[1] :].abs().sum() > 0
    assert supernet.blocks(2)[2].bn3.weight.grad.abs().sum() > 0


def test_torchvisions_resnet50_starts_the_papers_space(tmp_path):
    torch.manual_seed(0)
    network = used(resnet50()).eval()
    torch.save(network.state_dict(), tmp_path / "r50.pth")
    space = SearchSpace.data()
    supernet, found = started(tmp_path / "r50.pth", space)
    layers = nn.Sequential(*list(network.children())[:-2])
    with torch.no_grad():
        expected, got = layers(IMAGES), supernet.eval()(IMAGES, space.largest)[-1]
    torch.testing.assert_close(got[:, :2048], expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    assert found.source.left_out == {"fc.": 2}
    assert (found.taken, found.lost_blocks) == (len(network.state_dict()) - 2, ())
    assert "318 of its 318" in str(found)
    assert "fc.* (2)" in str(found)


def test_blocks_without_a_place_are_named(tmp_path):
    network = DATAResNet(Arch(4, (4, 8, 8, 16), (2, 4, 3, 2)))
    torch.save(network.state_dict(), tmp_path / "deep.pth")
    _, found = started(tmp_path / "deep.pth")
    assert found.lost_blocks == ("layer2.2", "layer2.3")
    assert "NOT THE SAME FUNCTION: no place for layer2.2, layer2.3" in str(found)


@pytest.mark.parametrize(
    "layout",
    [
        lambda weights: {"state_dict": {f"module.encoder_q.{name}": value for name, value in weights.items()}},
        lambda weights: {"state_dict": {f"backbone.{name}": value for name, value in weights.items()}},
        lambda weights: {"model": {f"module.{name}": value for name, value in weights.items()}},
        lambda weights: {name: value for name, value in weights.items() if not name.endswith("tracked")},
        lambda weights: {
            "state_dict": {
                **{f"encoder_k.0.{name}": torch.zeros_like(value) for name, value in weights.items()},
                **{f"encoder_q.0.{name}": value for name, value in weights.items()},
                **{f"backbone.{name}": torch.zeros_like(value) for name, value in weights.items()},
            }
        },
    ],
    ids=["MoCo", "MMPretrain", "a wrapped model", "without counts", "the authors' release"],
)
def test_every_layout_gives_the_same_weights(small, tmp_path, layout):
    network, _ = small
    torch.save(layout(network.state_dict()), tmp_path / "other.pth")
    found = read_backbone(tmp_path / "other.pth")
    assert found.arch == network.arch
    for name, value in network.state_dict().items():
        if not name.endswith("tracked"):
            assert torch.equal(found.weights[name], value), name


def test_a_supernet_of_the_same_space_is_copied_whole(tmp_path):
    path = random_supernet_file(tmp_path / "supernet.safetensors")
    supernet, found = started(path)
    expected = random_supernet().query.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in supernet.state_dict().items())
    assert (found.widened, found.new_blocks) == (0, 0)
    assert found.source.left_out == {"key.": len(expected)}


def test_wider_weights_are_refused(tmp_path):
    torch.save(DATAResNet(Arch(8, (8, 12, 17, 24), (1, 1, 1, 1))).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(UserError, match="wider than this space's largest network"):
        started(tmp_path / "wide.pth")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda: resnet18().state_dict(), "does not hold a plain ResNet of bottlenecks"),
        (lambda: ResNet(Bottleneck, [1, 1, 1, 1], groups=4).state_dict(), "does not hold a plain ResNet"),
        (lambda: {"features.0.weight": torch.zeros(2)}, "has no entry layer1.0.conv1.weight"),
        (lambda: {"layer1.0.conv1.weight": torch.zeros(4, 4, 1, 1)}, "lacks conv1.weight"),
        (
            lambda: {f"{name}.layer1.0.conv1.weight": torch.zeros(4, 4, 1, 1) for name in ("left", "right")},
            "several networks",
        ),
    ],
    ids=["basic blocks", "groups", "another network", "half a network", "two networks"],
)
def test_weights_that_fit_nothing_are_refused(tmp_path, weights, message):
    save_file(dict(weights()), tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=message):
        started(tmp_path / "other.safetensors")
