"""The backbone taken back out of a detector, whichever framework it was fine-tuned with."""

import re
from pathlib import Path

import pytest
import torch

from data_plugin import Arch
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.frameworks.finetuned_backbone import load_finetuned_backbone
from data_plugin.supernet.backbone_files import load_backbone, save_backbone
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


def test_tool_writes_the_artefact_and_onnx_that_runs_alike(network: DATAResNet, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    torch.save({"state_dict": renamed(network, "backbone.", None, "")}, tmp_path / "model.pth")
    arguments = ["--checkpoint", str(tmp_path / "model.pth"), "--out", str(tmp_path / "out"), "--onnx", "--size", "64"]
    assert main([*arguments, "--arch", str(ARCH)]) == 0
    assert load_backbone(tmp_path / "out").arch == ARCH
    session = runtime.InferenceSession(str(tmp_path / "out" / "backbone.onnx"), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["C2", "C3", "C4", "C5"]
    for shape in ((1, 3, 64, 64), (2, 3, 97, 130)):  # another batch size and other sides than it was traced with
        images = torch.rand(shape)
        for found, expected in zip(session.run(None, {"images": images.numpy()}), network(images), strict=True):
            torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)


def test_onnx_of_a_searched_backbone(network: DATAResNet, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    save_backbone(tmp_path / "winner", network)
    assert main(["--backbone", str(tmp_path / "winner"), "--out", str(tmp_path / "out"), "--onnx", "--size", "32"]) == 0
    assert (tmp_path / "out" / "backbone.onnx").stat().st_size > 1000


def test_onnx_needs_its_package(network: DATAResNet, tmp_path: Path, monkeypatch, capsys) -> None:
    import data_plugin.supernet.export as module

    monkeypatch.setattr(module, "is_installed", lambda name: name != "onnx")
    save_backbone(tmp_path / "winner", network)
    assert main(["--backbone", str(tmp_path / "winner"), "--out", str(tmp_path / "out"), "--onnx"]) == 2
    assert "onnx is not installed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(Exception, match="onnx is not installed"):
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
