"""The authors' checkpoint as a supernet, against plain convolutions with slices of its own tensors."""

import itertools
import math
import os

import pytest
import torch
from samples import SPACE
from torch.nn import functional as F

from data_plugin import Arch, SearchSpace, UserError
from data_plugin.backbones import extract
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.sliced import SlicedLinear
from data_plugin.images.input_format import InputFormat
from data_plugin.supernet.checkpoint import load_supernet
from data_plugin.supernet.release import read_release
from data_plugin.tools.convert_checkpoint import main

MICRO = SearchSpace.micro()
PAPER = Arch.parse("d3-2-17-3_w32-48-96-192-512")


def kaiming(out_channels, in_channels, size, _):
    return torch.randn(out_channels, in_channels, size, size) * (2 / (out_channels * size * size)) ** 0.5


def overlapping(pool):
    """Draws convolutions as overlapping parts of one tensor, of which a file holds a single copy."""
    starts = itertools.count(step=1009)

    def convolution(*shape):
        count = math.prod(shape)
        start = next(starts) % (len(pool) - count)
        return pool[start : start + count].view(shape)

    return convolution


def norm(name, channels):
    return {
        f"{name}.weight": torch.rand(channels) + 0.5,
        f"{name}.bias": torch.rand(channels) - 0.5,
        f"{name}.running_mean": torch.rand(channels) - 0.5,
        f"{name}.running_var": torch.rand(channels) + 0.5,
        f"{name}.num_batches_tracked": torch.tensor(7),
    }


def backbone(largest, convolution=kaiming):
    """A ResNet's state dict, written down from the paper's Table 1 and torchvision's names."""
    state = {"conv1.weight": convolution(largest.stem, 3, 7, 7), **norm("bn1", largest.stem)}
    incoming = largest.stem
    for stage, (width, depth) in enumerate(zip(largest.width, largest.depth, strict=True), start=1):
        for block in range(depth):
            name = f"layer{stage}.{block}"
            for index, (out, into, size) in enumerate(
                ((width, incoming, 1), (width, width, 3), (4 * width, width, 1)), start=1
            ):
                state[f"{name}.conv{index}.weight"] = convolution(out, into, size, size)
                state |= norm(f"{name}.bn{index}", out)
            if block == 0:
                state[f"{name}.downsample.0.weight"] = convolution(4 * width, incoming, 1, 1)
                state |= norm(f"{name}.downsample.1", 4 * width)
            incoming = 4 * width
    return state


def release(space, hidden=24, dim=8, queue=16, convolution=kaiming):
    """A state dict in the layout of the authors' release."""
    largest, state = space.largest, {}
    for branch in ("encoder_q", "encoder_k"):
        state |= {f"{branch}.0.{name}": value for name, value in backbone(largest, convolution).items()}
        state |= {
            f"{branch}.1.mlp.0.weight": torch.randn(hidden, 4 * largest.width[-1]),
            f"{branch}.1.mlp.0.bias": torch.randn(hidden),
            f"{branch}.1.mlp.2.weight": torch.randn(dim, hidden),
            f"{branch}.1.mlp.2.bias": torch.randn(dim),
        }
    copies = {n.replace("encoder_q.0.", "backbone."): v for n, v in state.items() if n.startswith("encoder_q.0.")}
    return {**state, **copies, "queue": torch.randn(dim, queue), "queue_ptr": torch.zeros(1, dtype=torch.long)}


def plain_forward(state, arch, images):
    """C2 to C5 of a network, by slices of the tensors of the widest one."""

    def layer(x, weight, bn, out, stride=1, padding=0):
        x = F.conv2d(x, state[weight][:out, : x.shape[1]], None, stride, padding)
        mean, var, scale, shift = (state[f"{bn}.{k}"][:out] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, scale, shift)

    x = F.max_pool2d(layer(images, "conv1.weight", "bn1", arch.stem, 2, 3).relu(), 3, 2, 1)
    maps = []
    for stage, (width, depth) in enumerate(zip(arch.width, arch.depth, strict=True), start=1):
        for block in range(depth):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = layer(x, f"{name}.conv1.weight", f"{name}.bn1", width).relu()
            y = layer(y, f"{name}.conv2.weight", f"{name}.bn2", width, stride, 1).relu()
            y = layer(y, f"{name}.conv3.weight", f"{name}.bn3", 4 * width)
            if block == 0:
                x = layer(x, f"{name}.downsample.0.weight", f"{name}.downsample.1", 4 * width, stride)
            x = (x + y).relu()
        maps.append(x)
    return maps


def below(state, prefix):
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


@pytest.fixture
def write(tmp_path):
    def written(state, **more):
        torch.save({"state_dict": state, **more}, tmp_path / "release.pth")
        return tmp_path / "release.pth"

    return written


def read(path, space=SPACE):
    return read_release(path, space, InputFormat.imagenet())


def check_networks(supernet, state, archs):
    images = torch.randn(1, 3, 64, 64)
    for branch, prefix in ((supernet.query, "encoder_q.0."), (supernet.key, "encoder_k.0.")):
        for arch in archs:
            expected = plain_forward(below(state, prefix), arch, images)
            with torch.no_grad():
                for found in (branch(images, arch), extract(branch, arch)(images)):
                    for ours, theirs in zip(found, expected, strict=True):
                        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_released_layout_with_the_shapes_of_the_full_space(write):
    space = SearchSpace.data()
    state = release(space, 2048, 128, 65_536, overlapping(0.02 * torch.randn(5_000_000)))
    assert len(state) == 3 * (6 + (4 + 6 + 29 + 4) * 3 * 6 + 4 * 6) + 2 * 4 + 2
    assert sum(value.numel() for value in below(state, "encoder_q.0.").values()) > 84_780_000
    found = read(write(state, meta={"epoch": 200}), space)
    assert sum(found.entries.values()) == len(state)
    assert found.left_out == ["queue", "queue_ptr", "meta"]
    check_networks(found.supernet, state, [space.smallest, PAPER])
    assert len(found.supernet.heads) == 8
    for ours, theirs in (("query", "encoder_q"), ("key", "encoder_k")):
        for mine, their in (("layers.0", "mlp.0"), ("layers.2", "mlp.2")):
            for part in ("weight", "bias"):
                converted = found.supernet.heads[f"{ours}.{mine}.{part}"]
                assert torch.equal(converted, state[f"{theirs}.1.{their}.{part}"])


def test_every_entry_finds_its_place(write):
    state = release(SPACE)
    found = read(write(state))
    assert sum(found.entries.values()) == len(state)
    assert found.entries["backbone."] == len(below(state, "backbone."))
    assert found.supernet.info.space == SPACE
    assert found.supernet.info.method == "mocov2"
    assert found.supernet.info.input_format == InputFormat.imagenet()
    check_networks(found.supernet, state, [SPACE.smallest, SPACE.largest, *SPACE.sample(6, seed=0)])


def test_heads_are_those_of_our_method(write):
    heads = pytest.importorskip("lightly.models.modules.heads", reason="the head is lightly's")
    state = release(SPACE)
    head = heads.MoCoProjectionHead(4 * 24, 24, 8)
    head.layers[0] = SlicedLinear(4 * 24, 24)
    head.load_state_dict(below(read(write(state)).supernet.heads, "query."))
    features = torch.randn(5, 4 * 16)
    theirs = below(state, "encoder_q.1.mlp.")
    expected = F.linear(features, theirs["0.weight"][:, : 4 * 16], theirs["0.bias"]).relu()
    torch.testing.assert_close(head(features), F.linear(expected, theirs["2.weight"], theirs["2.bias"]))


def test_half_precision_is_read_as_single(write):
    state = {name: value.half() if value.is_floating_point() else value for name, value in release(SPACE).items()}
    found = read(write(state)).supernet
    check_networks(found, {name: value.float() for name, value in state.items()}, [SPACE.largest])
    assert all(value.dtype == torch.float32 for value in found.heads.values())


def test_the_prefix_of_distributed_training_is_taken_off(write):
    state = release(SPACE)
    plain = read(write(state)).supernet
    prefixed = read(write({f"module.{name}": value for name, value in state.items()})).supernet
    for name, value in plain.key.state_dict().items():
        assert torch.equal(prefixed.key.state_dict()[name], value)


def test_norms_without_a_count_of_batches_are_read(write):
    state = {name: value for name, value in release(SPACE).items() if not name.endswith("num_batches_tracked")}
    found = read(write(state))
    assert sum(found.entries.values()) == len(state)
    check_networks(found.supernet, state, [SPACE.smallest])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("encoder_k.0.layer3.1.bn2.weight"), r"1 missing \(encoder_k.0.layer3.1.bn2.weight\)"),
        (lambda s: s.pop("encoder_q.1.mlp.2.weight"), r"missing \(encoder_q.1.mlp.2.weight\)"),
        (lambda s: s.pop("queue"), r"missing \(queue\)"),
        (lambda s: s.update(predictor=torch.zeros(1)), r"1 unexpected \(predictor\)"),
        (lambda s: s.update({"module.fc.weight": torch.zeros(1)}), r"1 unexpected \(module.fc.weight\)"),
        (
            lambda s: s.update({"encoder_q.0.conv1.weight": torch.zeros(6, 3, 7, 7)}),
            r"encoder_q.0.conv1.weight \(6, 3, 7, 7\) instead of \(8, 3, 7, 7\)",
        ),
        (
            lambda s: s.update({"encoder_k.1.mlp.0.weight": torch.zeros(20, 96)}),
            r"encoder_k.1.mlp.0.weight \(20, 96\) instead of \(24, 96\)",
        ),
        (
            lambda s: s.update({"backbone.bn1.bias": s["backbone.bn1.bias"] + 1}),
            "different values under backbone.bn1.bias and encoder_q.0.bn1.bias",
        ),
        (lambda s: s.clear(), "no tensors under 'state_dict'"),
        (lambda s: s.update(note="text"), "no tensors under 'state_dict'"),
    ],
)
def test_what_does_not_fit_the_layout_is_named(write, change, message):
    state = release(SPACE)
    change(state)
    with pytest.raises(UserError, match=message):
        read(write(state))


def test_another_space_is_refused(write):
    with pytest.raises(UserError, match=f"the shapes of {MICRO.largest}.*missing.*of another shape"):
        read(write(release(SPACE)), MICRO)


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


def test_objects_in_the_file_are_refused_and_not_run(write, tmp_path):
    with pytest.raises(UserError, match="was refused"):
        read(write(release(SPACE), meta=Payload(tmp_path / "executed")))
    assert not (tmp_path / "executed").exists()


@pytest.fixture
def imported(write, tmp_path, capsys):
    state = release(MICRO)
    out = tmp_path / "supernet.safetensors"
    assert main(["import", str(write(state)), "--space", "micro", "--image-size", "32", "--out", str(out)]) == 0
    assert "left out: queue, queue_ptr" in capsys.readouterr().out
    return out, state


def test_tool_imports_once_and_states_the_input_format(imported, tmp_path, capsys):
    out, _ = imported
    info = load_supernet(out, MICRO).info
    assert info.training["image_size"] == 32
    assert info.training["imported"]["file"] == "release.pth"
    arguments = ["import", str(tmp_path / "release.pth"), "--space", "micro", "--out", str(out)]
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    other = ["--channel-order", "BGR", "--mean", "1", "2", "3", "--std", "4", "5", "6"]
    assert main([*arguments, "--overwrite", *other]) == 0
    assert load_supernet(out).info.input_format == InputFormat("BGR", (1, 2, 3), (4, 5, 6))


def test_tool_refuses_a_release_of_another_space_and_writes_nothing(imported, tmp_path, capsys):
    arguments = ["import", str(tmp_path / "release.pth"), "--out", str(tmp_path / "data.safetensors")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "data.safetensors").exists()
    assert main([*arguments[:-1], str(tmp_path / "data.pth"), "--space", "micro"]) == 2
    assert "does not end in .safetensors" in capsys.readouterr().err


def test_tool_exports_a_network_as_the_release_has_it(imported, tmp_path, capsys):
    out, state = imported
    arch = Arch.parse("d2-1-3-1_w12-16-24-64-96")
    arguments = ["export", "--supernet", str(out), "--arch", str(arch), "--out", str(tmp_path / "network")]
    assert main(arguments) == 0
    assert "running statistics" in capsys.readouterr().out
    network = DATAResNet.from_pretrained(tmp_path / "network")
    assert network.arch == arch
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(
            network(images), plain_forward(below(state, "encoder_q.0."), arch, images), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_tool_exports_a_calibrated_network(imported, tmp_path, capsys):
    pytest.importorskip("torchvision", reason="images are prepared with torchvision")
    import numpy as np
    from PIL import Image

    out, state = imported
    folder = tmp_path / "images" / "deep"
    folder.mkdir(parents=True)
    for index in range(5):
        pixels = np.random.default_rng(index).integers(0, 256, (37, 37, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    arguments = ["export", "--supernet", str(out), "--arch", "smallest", "--out", str(tmp_path / "network")]
    more = ["--calibrate", str(tmp_path / "images"), "--batch-size", "2", "--calibration", "5"]
    assert main([*arguments, *more]) == 0
    assert "batch-norm statistics of 4 images at 32 pixels" in capsys.readouterr().out
    weights = DATAResNet.from_pretrained(tmp_path / "network").state_dict()
    theirs = below(state, "encoder_q.0.")
    for name, value in weights.items():
        expected = theirs[name][tuple(slice(0, size) for size in value.shape)]
        assert torch.equal(value, expected) != ("running" in name or "num_batches" in name), name
    # The stem's mean over four of the five images, computed alone: no batch norm comes before it.
    means = []
    for index in range(5):
        with Image.open(folder / f"{index}.png") as image:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()[:, 2:34, 2:34]
        normalised = (pixels - torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)) / torch.tensor(
            [58.395, 57.12, 57.375]
        ).view(3, 1, 1)
        stem = F.conv2d(normalised[None], theirs["conv1.weight"][: MICRO.smallest.stem], None, 2, 3)
        means.append(stem.mean(dim=(0, 2, 3)))
    total = torch.stack(means).sum(0)
    candidates = torch.stack([(total - left_out) / 4 for left_out in means])
    assert any(torch.allclose(weights["bn1.running_mean"], candidate, atol=1e-4) for candidate in candidates)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--arch", str(PAPER)], "does not fit inside"),
        (["--arch", "smallest", "--calibrate", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_tool_refuses_what_it_cannot_export(imported, tmp_path, capsys, more, message):
    assert main(["export", "--supernet", str(imported[0]), "--out", str(tmp_path / "network"), *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "network").exists()
