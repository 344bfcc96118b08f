"""A network that others trained as a supernet of one network, and as plain weights, against torchvision's ResNet."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from samples import used
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck, ResNet

from data_plugin import SearchSpace
from data_plugin.backbones import DATAResNet
from data_plugin.images.input_format import InputFormat
from data_plugin.supernet.checkpoint import load_supernet
from data_plugin.supernet.one_network import read_one_network
from data_plugin.tools.convert_checkpoint import main

DIM, QUEUE = 6, 32
SPACE = {"stem": [4], "width": [[4], [8], [16], [32]], "depth": [[1], [2], [1], [1]]}
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Narrow(ResNet):
    """torchvision's ResNet with a sixteenth of the channels."""

    def _make_layer(self, block, planes, *args, **kwargs):
        if planes == 64:
            self.inplanes = 4
            self.conv1, self.bn1 = nn.Conv2d(3, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4)
        return super()._make_layer(block, planes // 16, *args, **kwargs)

    def maps(self, images):
        x, found = self.maxpool(self.relu(self.bn1(self.conv1(images)))), []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            found.append(x := stage(x))
        return found


def narrow(head):
    network = used(Narrow(Bottleneck, [1, 2, 1, 1])).eval()
    network.fc = head
    return network


class MoCo(nn.Module):
    """What facebookresearch/moco trains (moco/builder.py, with --mlp)."""

    def __init__(self, mlp=True):
        super().__init__()
        self.encoder_q, self.encoder_k = (
            narrow(nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, DIM)) if mlp else nn.Linear(128, DIM))
            for _ in range(2)
        )
        self.register_buffer("queue", F.normalize(torch.randn(DIM, QUEUE), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))


def published(model):
    """What its main_moco.py saves: the model is wrapped for several GPUs, the optimiser has taken a step."""
    optimizer = torch.optim.SGD(model.encoder_q.parameters(), 0.03, momentum=0.9)
    model.encoder_q(IMAGES).sum().backward()
    optimizer.step()
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    return {"epoch": 800, "arch": "resnet50", "state_dict": state, "optimizer": optimizer.state_dict()}


@pytest.fixture
def moco():
    return MoCo()


@pytest.fixture
def write(tmp_path):
    def written(contents, name="moco_v2_800ep_pretrain.pth.tar", **options):
        torch.save(contents, tmp_path / name, **options)
        return tmp_path / name

    return written


@pytest.fixture
def space(tmp_path):
    (tmp_path / "space.json").write_text(json.dumps(SPACE))
    return str(tmp_path / "space.json")


def check_maps(found, network):
    for ours, theirs in zip(found, network.maps(IMAGES), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "as before torch 1.6"])
def test_mocos_checkpoint_is_a_supernet_of_one_network(moco, write, space, tmp_path, capsys, zipped):
    path = write(published(moco), _use_new_zipfile_serialization=zipped)
    out = tmp_path / "supernet.safetensors"
    assert main(["import", str(path), "--space", space, "--out", str(out)]) == 0
    found = load_supernet(out, SearchSpace.from_json(SPACE))
    with torch.no_grad():
        check_maps(found.query(IMAGES, found.info.space.largest), moco.encoder_q)
        check_maps(found.key(IMAGES, found.info.space.largest), moco.encoder_k)
    assert found.info.input_format == InputFormat.imagenet()
    assert found.info.training["imported"]["file"] == path.name
    said = capsys.readouterr().out.splitlines()
    backbone = len(moco.encoder_q.state_dict()) - 4
    counts = {"query": backbone, "query head": 4, "key": backbone, "key head": 4}
    assert [line.removesuffix(" entries").rsplit(maxsplit=1) for line in said[:4]] == [
        [part, str(count)] for part, count in counts.items()
    ]
    assert said[4] == "left out: queue, queue_ptr, epoch, arch, optimizer"
    assert said[5].startswith(f"{out}: 1 network, images in ")


def test_its_heads_make_the_embeddings_that_its_own_do(moco, write):
    pytest.importorskip("lightly", reason="the head is lightly's")
    from data_plugin.search.distances.embedding import trained_heads

    space = SearchSpace.from_json(SPACE)
    heads = trained_heads(read_one_network(write(published(moco)), space, InputFormat.imagenet()).supernet)
    with torch.no_grad():
        for embed, network in ((heads.embed_query, moco.encoder_q), (heads.embed_key, moco.encoder_k)):
            torch.testing.assert_close(embed(network.maps(IMAGES)[-1]), network(IMAGES), rtol=1e-5, atol=1e-5)


def test_other_tools_work_on_it(moco, write, space, tmp_path, capsys):
    pytest.importorskip("lightning", reason="evaluation needs lightning")
    from data_plugin.tools.evaluate import main as evaluate

    out = tmp_path / "supernet.safetensors"
    main(["import", str(write(published(moco))), "--space", space, "--image-size", "32", "--out", str(out)])
    arguments = ["export", "--supernet", str(out), "--arch", "smallest", "--out", str(tmp_path / "network")]
    assert main(arguments) == 0
    check_maps(DATAResNet.from_pretrained(tmp_path / "network")(IMAGES), moco.encoder_q)
    for split in ("train", "val"):
        for index in range(4):
            pixels = np.random.default_rng(index).integers(0, 256, (36, 36, 3), dtype=np.uint8)
            path = tmp_path / split / str(index % 2) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    folders = ["--train", str(tmp_path / "train"), "--val", str(tmp_path / "val"), "--out", str(tmp_path / "knn")]
    more = ["--k", "1", "--batch-size", "2", "--device", "cpu", "--workers", "0"]
    capsys.readouterr()
    assert evaluate(["knn", "--supernet", str(out), "--arch", "largest", *folders, *more]) == 0
    # The same images in both folders: each is its own nearest neighbour.
    assert "100.0" in capsys.readouterr().out


LAYOUTS = {
    "torchvision": lambda state: state,
    "timm": lambda state: {"state_dict": state, "epoch": 7},
    "MMPretrain": lambda state: {
        "meta": {"epoch": 7},
        "state_dict": {("head." if n.startswith("fc.") else "backbone.") + n: value for n, value in state.items()},
    },
    "MoCo": lambda state: {"state_dict": {f"module.encoder_q.{n}": value for n, value in state.items()}},
}


@pytest.mark.parametrize(
    ("layout", "left_out"),
    [
        ("torchvision", "fc.* (2)"),
        ("timm", "fc.* (2), epoch"),
        ("MMPretrain", "head.* (2), meta"),
        ("MoCo", "encoder_q.fc.* (2)"),
    ],
)
def test_without_a_space_the_weights_are_a_plain_backbone(write, tmp_path, capsys, layout, left_out):
    network = narrow(nn.Linear(128, 5))
    path = write(LAYOUTS[layout](network.state_dict()), "resnet.pth")
    arguments = ["import", str(path), "--out", str(tmp_path / "backbone")]
    assert main(arguments) == 0
    found = DATAResNet.from_pretrained(tmp_path / "backbone")
    with torch.no_grad():
        check_maps(found(IMAGES), network)
    for name in ("backbone.pth", "backbone.safetensors"):
        for key, value in DATAResNet.from_pretrained(tmp_path / "backbone" / name).state_dict().items():
            assert torch.equal(value, network.state_dict()[key]), key
    said = capsys.readouterr().out
    assert f"{found.arch}: {len(network.state_dict()) - 2} backbone tensors" in said
    assert f"left out: {left_out}\n" in said
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


def test_a_network_without_average_or_heads_is_its_own_teacher_and_that_is_said(write, space, tmp_path, capsys):
    network = narrow(nn.Linear(128, 5))
    save_file(network.state_dict(), tmp_path / "resnet.safetensors")
    out = tmp_path / "supernet.safetensors"
    assert main(["import", str(tmp_path / "resnet.safetensors"), "--space", space, "--out", str(out)]) == 0
    found = load_supernet(out)
    with torch.no_grad():
        for branch in (found.query, found.key):
            check_maps(branch(IMAGES, found.info.space.largest), network)
    assert (found.info.method, found.heads) == ("unknown", {})
    said = capsys.readouterr().out
    assert "no moving average of the network: the key branch, which is the teacher, is a copy of it" in said
    assert "no heads in the names of MoCo v2's: the supernet has no tap z" in said
    assert "key head" not in said
    assert "left out: fc.* (2)" in said


@pytest.mark.parametrize("more", [[], ["--space"]], ids=["backbone", "supernet"])
def test_dinos_published_network_is_its_teacher(write, space, tmp_path, capsys, more):
    student, teacher = narrow(nn.Linear(128, 5)), narrow(nn.Linear(128, 5))
    branches = {"student": ("module.backbone.", student), "teacher": ("backbone.", teacher)}
    contents = {
        branch: {f"{prefix}{name}": value for name, value in network.state_dict().items()}
        for branch, (prefix, network) in branches.items()
    }
    out = tmp_path / ("supernet.safetensors" if more else "backbone")
    arguments = ["import", str(write({**contents, "epoch": 1})), "--out", str(out), *more, *[space][: len(more)]]
    assert main(arguments) == 0
    found = load_supernet(out).query if more else DATAResNet.from_pretrained(out)
    for name, value in found.state_dict().items():
        assert torch.equal(value, teacher.state_dict()[name]), name
    said = capsys.readouterr().out
    assert "the file's entry 'teacher' was taken; others hold a network, too" in said
    assert "student, epoch" in said.partition("left out: ")[2]


def test_heads_of_another_form_are_left_out_and_counted(write):
    found = read_one_network(write(published(MoCo(mlp=False))), SearchSpace.from_json(SPACE), InputFormat.imagenet())
    assert found.supernet.heads == {}
    assert {"encoder_q.fc.* (2)", "encoder_k.fc.* (2)"} < set(found.left_out)
    assert len(found.notes) == 1


def test_half_precision_is_read_as_single(moco, write):
    contents = published(moco)
    state = {n: value.half() if value.is_floating_point() else value for n, value in contents["state_dict"].items()}
    found = read_one_network(write({"state_dict": state}), SearchSpace.from_json(SPACE), InputFormat.imagenet())
    tensors = {**found.supernet.query.state_dict(), **found.supernet.heads}
    assert {value.dtype for value in tensors.values()} == {torch.float32, torch.int64}


def test_another_space_is_refused_with_the_one_that_fits(moco, write, space, tmp_path, capsys):
    path = write(published(moco))
    out = tmp_path / "supernet.safetensors"
    assert main(["import", str(path), "--space", "micro", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert f"holds one network, d1-2-1-1_w4-4-8-16-32, and the space has {len(SearchSpace.micro())}" in said
    assert json.loads(said[said.index("{") : said.rindex("}") + 1]) == SPACE
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("encoder_k.layer2.1.bn2.bias", None, "(module.encoder_k.*) does not hold"),
        ("encoder_q.conv1.weight", None, "(module.encoder_q.*) lacks conv1.weight"),
        ("encoder_q.layer1.0.se.weight", torch.zeros(3), "1 unexpected (layer1.0.se.weight)"),
        ("encoder_q.bn1.bias", torch.full((4,), torch.nan), "not finite, first in bn1.bias"),
        ("encoder_k.fc.2.bias", torch.zeros(3), "(module.encoder_k.fc.*) does not hold a head of MoCo v2"),
    ],
)
def test_what_does_not_fit_is_named(moco, write, space, tmp_path, capsys, name, value, message):
    contents = published(moco)
    contents["state_dict"].pop(f"module.{name}", None)
    if value is not None:
        contents["state_dict"][f"module.{name}"] = value
    assert main(["import", str(write(contents)), "--space", space, "--out", str(tmp_path / "net.safetensors")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "net.safetensors").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--out", "net.safetensors"], "plain backbone weights are a folder of several"),
        (["--out", "net", "--mean", "1", "2", "3"], "--mean is of a supernet's images"),
        (["--out", "net", "--image-size", "32"], "--image-size is of a supernet's images"),
        (["--out", "net.safetensors", "--space", "tiny"], "'tiny' is not a search space"),
        (["--out", "net", "--space", "micro"], "net does not end in .safetensors"),
    ],
)
def test_options_that_do_not_fit_are_refused(moco, write, tmp_path, monkeypatch, capsys, more, message):
    path = write(published(moco))
    monkeypatch.chdir(tmp_path)
    assert main(["import", str(path), *more]) == 2
    assert message in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("more", [["--out", "net"], ["--out", "net.safetensors", "--space", "space.json"]])
def test_objects_in_the_file_are_refused_and_not_run(moco, write, space, tmp_path, monkeypatch, capsys, more, zipped):
    path = write({**published(moco), "args": Payload(tmp_path / "run")}, _use_new_zipfile_serialization=zipped)
    monkeypatch.chdir(tmp_path)
    assert main(["import", str(path), *more]) == 2
    assert "was refused" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_help_says_what_names_cannot_tell(capsys):
    with pytest.raises(SystemExit):
        main(["import", "--help"])
    assert "stride in the 3x3 convolution. Caffe-style weights" in " ".join(capsys.readouterr().out.split())
