"""The backbone taken back out of a detector, whichever framework it was fine-tuned with."""

import re
from pathlib import Path

import pytest
import torch

from data_plugin import Arch, UserError
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.frameworks.finetuned_backbone import load_finetuned_backbone
from data_plugin.supernet.backbone_files import save_backbone
from data_plugin.supernet.export import export_onnx
from data_plugin.tools.export import main

ARCH = Arch.parse("d1-2-1-2_w8-8-12-16-24")


@pytest.fixture
def network() -> DATAResNet:
    torch.manual_seed(0)
    network = DATAResNet(ARCH)
    for name, value in network.state_dict().items():
        if "running" in name:
            value.uniform_(0.5, 1.5)
    return network.eval()


def renamed(network: DATAResNet, backbone: str, head: str | None, layer4: str) -> dict[str, torch.Tensor]:
    """Weights as a detector holds them, with a head of its own."""
    found = {"rpn_head.conv1.weight": torch.zeros(1), "backbone.fpn_output2.weight": torch.zeros(1)}
    for name, value in network.state_dict().items():
        if head is not None and name.startswith("layer4."):
            found[head + name.replace("layer4.", layer4)] = value
        else:
            found[backbone + name] = value
    return found


@pytest.mark.parametrize(
    ("key", "backbone", "head", "layer4"),
    [
        ("state_dict", "backbone.", None, ""),
        ("state_dict", "detector.backbone.", None, ""),
        ("state_dict", "backbone.", "roi_head.shared_head.", "layer4."),
        ("model", "backbone.", None, ""),
        ("model", "backbone.bottom_up.", None, ""),
        ("model", "backbone.", "roi_heads.res5.", "layer4."),
        (None, "", None, ""),
    ],
)
def test_checkpoints_of_every_framework(
    network: DATAResNet, tmp_path: Path, key: str | None, backbone: str, head: str | None, layer4: str
) -> None:
    weights = renamed(network, backbone, head, layer4)
    weights |= {"roi_heads.res5.norm.weight": torch.zeros(2), "roi_head.shared_head.norm.weight": torch.zeros(2)}
    torch.save({key: weights, "iteration": 7} if key else weights, tmp_path / "model.pth")
    found = load_finetuned_backbone(tmp_path / "model.pth")
    assert found.arch == ARCH
    assert found.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in found.state_dict().items())


def test_frozen_batch_norms_lack_the_count_of_batches(network: DATAResNet, tmp_path: Path) -> None:
    weights = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    torch.save({"model": {f"backbone.{name}": value for name, value in weights.items()}}, tmp_path / "model.pth")
    images = torch.rand(1, 3, 64, 64)
    for found, expected in zip(load_finetuned_backbone(tmp_path / "model.pth")(images), network(images), strict=True):
        assert torch.equal(found, expected)


SIZES = ((1, 3, 64, 64), (2, 3, 97, 130), (3, 3, 33, 200), (1, 3, 1, 1))


def test_tool_writes_the_artefact_and_onnx_that_runs_alike_at_any_size(
    network: DATAResNet, tmp_path: Path, capsys
) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    torch.save({"state_dict": renamed(network, "backbone.", None, "")}, tmp_path / "model.pth")
    arguments = ["--checkpoint", str(tmp_path / "model.pth"), "--out", str(tmp_path / "out"), "--onnx"]
    assert main([*arguments, "--arch", str(ARCH)]) == 0
    files = [tmp_path / "out" / f"backbone.{ending}" for ending in ("onnx", "pth", "safetensors")]
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1:] == [str(path) for path in (tmp_path / "out" / "arch.json", *files)]
    assert DATAResNet.from_pretrained(tmp_path / "out").arch == ARCH
    session = runtime.InferenceSession(str(files[0]), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert [output.name for output in session.get_outputs()] == ["C2", "C3", "C4", "C5"]
    for shape in SIZES:
        images = torch.rand(shape)
        for found, expected in zip(session.run(None, {"images": images.numpy()}), network(images), strict=True):
            torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)


def test_onnx_has_the_outputs_of_the_network(network: DATAResNet, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    onnx = pytest.importorskip("onnx")
    export_onnx(DATAResNet(ARCH, out_indices=(2, 1), num_stages=3, in_channels=5), tmp_path / "part.onnx")
    graph = onnx.load(tmp_path / "part.onnx").graph
    assert [each.name for each in graph.output] == ["C3", "C4"]
    assert graph.input[0].type.tensor_type.shape.dim[1].dim_value == 5


def test_torchscript_of_a_searched_backbone_runs_alike(network: DATAResNet, tmp_path: Path) -> None:
    save_backbone(tmp_path / "winner", network)
    assert main(["--backbone", str(tmp_path / "winner"), "--out", str(tmp_path / "out"), "--torchscript"]) == 0
    scripted = torch.jit.load(tmp_path / "out" / "backbone.torchscript.pt")
    for shape in SIZES:
        images = torch.rand(shape)
        for found, expected in zip(scripted(images), network(images), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_onnx_needs_its_packages(network: DATAResNet, tmp_path: Path, monkeypatch, capsys, package: str) -> None:
    monkeypatch.setattr("data_plugin.utils.extras.is_installed", lambda name: name != package)
    save_backbone(tmp_path / "winner", network)
    assert main(["--backbone", str(tmp_path / "winner"), "--out", str(tmp_path / "out"), "--onnx"]) == 2
    expected = f"{package} is not installed; install it with: pip install 'data_plugin[export]'"
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=f"{package} is not installed"):
        export_onnx(network, tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: {k: v for k, v in weights.items() if "layer4" not in k}, "layer4.0.conv2.weight is missing"),
        (
            lambda weights: {k: v for k, v in weights.items() if "layer2.1.bn1" not in k},
            r"missing \(layer2.1.bn1.weight",
        ),
        (lambda weights: {k: v for k, v in weights.items() if "running" not in k}, "missing"),
        (lambda weights: {**weights, "backbone.layer1.0.conv2.weight": torch.zeros(8, 4, 3, 3)}, "of another shape"),
        (lambda weights: {"neck.weight": torch.zeros(1)}, "holds no whole backbone"),
    ],
)
def test_checkpoints_without_a_whole_plain_backbone_are_refused(
    network: DATAResNet, tmp_path: Path, capsys, change, message: str
) -> None:
    weights = {f"backbone.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": change(weights)}, tmp_path / "model.pth")
    assert main(["--checkpoint", str(tmp_path / "model.pth"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_architecture_than_asked_for_is_refused(network: DATAResNet, tmp_path: Path, capsys) -> None:
    save_backbone(tmp_path / "winner", network)
    arguments = ["--backbone", str(tmp_path / "winner"), "--out", str(tmp_path / "out"), "--arch", str(Arch.resnet50())]
    assert main(arguments) == 2
    assert f"the backbone is {ARCH}; expected {Arch.resnet50()}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
