import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import SPACE, latency_table

from data_plugin import SearchSpace, UserError
from data_plugin.space import cost, measure_latency, runtimes
from data_plugin.space.latency_model import networks_to_measure
from data_plugin.space.latency_table import LatencyTable
from data_plugin.space.resolution import Resolution
from data_plugin.tools import measure_latency as tool

CPU = torch.device("cpu")
SMALL = SearchSpace((4,), ((4,), (8,), (8,), (16, 24)), ((1,), (1, 2), (1, 2), (1, 2)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "table.json"
    latency_table().write(path)
    return path


def changed(path: Path, **entries) -> Path:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    return path


def test_what_is_written_is_read_again_and_gives_every_latency(file):
    written, read = latency_table(), LatencyTable.read(file)
    assert read.networks == pytest.approx(written.networks)
    assert replace(read, networks=written.networks, check=written.check) == written
    expected = 1e-9 * cost.flops(SPACE.table, (64, 64))
    np.testing.assert_allclose(read.model.latency(SPACE.table), expected, rtol=1e-6)
    np.testing.assert_allclose(read.errors, 0, atol=1e-6)
    assert read.place == "a board with a runtime 1.0, at 64x64"
    assert "2 other whole networks" in read.accuracy
    assert json.loads(file.read_text())["networks"][str(next(iter(written.networks)))] == pytest.approx(
        1e3 * next(iter(written.networks.values()))
    )


def test_a_table_written_by_hand_needs_no_check_and_no_version(file):
    value = json.loads(file.read_text())
    for name in ("check", "made_by", "contract_dilation"):
        del value[name]
    file.write_text(json.dumps(value))
    assert LatencyTable.read(file).accuracy == "not checked on whole networks"


@pytest.mark.parametrize("value", [-1.0, 0, math.nan, math.inf, "3", None, True])
def test_a_latency_that_is_none_is_refused(file, value):
    name, *_ = json.loads(file.read_text())["networks"]
    with pytest.raises(UserError, match=rf"{name} takes .* ms; expected a finite number above 0"):
        LatencyTable.read(changed(file, networks={name: value}))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"format": 2}, "no latency table of format 1"),
        ({"unit": "us"}, "unit is 'us'; expected 'ms'"),
        ({"networks": []}, "its networks are"),
        ({"networks": {}}, r"no network in it has a stem of 4 channels and \d+ more"),
        ({"networks": {"resnet50": 3.0}}, "'resnet50' is not an architecture"),
        ({"networks": {"d3-4-6-3_w64-64-128-256-512": 3.0}}, "is not in its search space"),
        ({"networks": {str(SPACE.largest): 3.0}}, "expected each block of the space in one network at least"),
        ({"space": "micro"}, "'micro' is not a search space"),
        ({"input_size": [64]}, r"its input size is \[64\]"),
        ({"input_size": [0, 64]}, "its input size is"),
        ({"strides": 2}, "its strides are 2; expected 4 integers"),
        ({"strides": [1, 2, 2]}, "strides are"),
        ({"dilations": [1, 1, 0, 1]}, "dilations are"),
        ({"threads": "two"}, "its threads are 'two'"),
    ],
)
def test_a_table_that_is_wrong_is_refused_in_one_sentence(file, entries, message):
    with pytest.raises(UserError, match=message) as caught:
        LatencyTable.read(changed(file, **entries))
    assert str(file) in str(caught.value)


def test_a_file_that_is_no_table_is_refused(file, tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        LatencyTable.read(tmp_path / "none.json")
    value = json.loads(file.read_text())
    del value["device"]
    for text, message in (
        ("{", "is not JSON"),
        ("[1]", "no latency table of format 1"),
        (json.dumps(value), "has no entry 'device'"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            LatencyTable.read(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not JSON"):
        LatencyTable.read(file)


def test_a_table_of_other_networks_is_refused():
    table = latency_table()
    table.require(SPACE, Resolution(), None)
    table.require(SPACE, Resolution(), (64, 64))
    with pytest.raises(UserError, match="expected that of the supernet"):
        table.require(SMALL, Resolution(), None)
    with pytest.raises(UserError, match=r"measure with --strides 1 2 1 1 --dilations 1 1 2 4 --contract-dilation$"):
        table.require(SPACE, Resolution((1, 2, 1, 1), (1, 1, 2, 4), True), None)
    with pytest.raises(UserError, match="of 64x64 pixels, and --input-size asks for 96x64"):
        table.require(SPACE, Resolution(), (96, 64))


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "space.json"
    path.write_text(json.dumps(SMALL.to_json()))
    return str(path)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_the_tool_measures_what_a_search_can_read(runtime, small, tmp_path, capsys, monkeypatch):
    if runtime == "onnxruntime":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    monkeypatch.setattr(measure_latency, "networks_to_measure", lambda s, n=9, seed=0: networks_to_measure(s, n, seed))
    out = tmp_path / "made" / "table.json"
    options = ["--space", small, "--out", str(out), "--input-size", "32x48", "--device", "cpu", "--check", "2"]
    options += ["--runtime", runtime, "--strides", "1", "2", "1", "1", "--dilations", "1", "1", "2", "4"]
    assert tool.main(options) == 0
    table = LatencyTable.read(out)
    table.require(SMALL, Resolution((1, 2, 1, 1), (1, 1, 2, 4)), (32, 48))
    assert (len(table.networks), len(table.check)) == (9, 2)
    assert not set(table.networks) & set(table.check)
    assert table.runtime.startswith(f"{runtime} ")
    assert table.threads == torch.get_num_threads()
    printed = capsys.readouterr().out
    assert table.place in printed
    assert table.accuracy in printed
    before = out.read_text()
    assert tool.main(options) == 2
    assert "is there already; name another --out, or add --overwrite" in capsys.readouterr().err
    assert out.read_text() == before


def test_what_cannot_be_measured_is_refused_in_one_sentence(small, tmp_path, capsys, monkeypatch):
    out = tmp_path / "table.json"
    options = ["--space", small, "--out", str(out), "--input-size", "32", "--runtime"]
    monkeypatch.setattr("data_plugin.utils.extras.is_installed", lambda package: package != "onnxruntime")
    assert tool.main([*options, "onnxruntime"]) == 2
    assert "onnxruntime is not installed; install it with: pip install" in capsys.readouterr().err
    assert tool.main([*options, "torch", "--space", "huge"]) == 2
    assert "'huge' is not a search space" in capsys.readouterr().err
    assert not out.exists()


def test_onnxruntime_runs_the_same_network():
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from data_plugin.backbones.data_resnet import DATAResNet

    network = DATAResNet(SPACE.middle, out_indices=(3,), strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)).eval()
    images = torch.randn(1, 3, 40, 56)
    session = onnxruntime.InferenceSession(runtimes._onnx(network, images), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), network(images)[0], rtol=1e-3, atol=1e-4)


def test_onnxruntime_is_measured_on_the_cpu_alone():
    pytest.importorskip("onnxruntime")
    with pytest.raises(UserError, match="not on meta; expected --device cpu"):
        runtimes.onnxruntime_latency(torch.nn.Identity(), torch.empty(1, 3, 8, 8, device="meta"))


def test_tensorrt_is_refused_where_onnxruntime_has_none(small, tmp_path, capsys, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    out = tmp_path / "table.json"
    assert tool.main(["--space", small, "--out", str(out), "--input-size", "32", "--runtime", "tensorrt-fp16"]) == 2
    said = capsys.readouterr().err
    assert "knows no TensorRT here; install onnxruntime-gpu" in said
    assert "write the table, as docs/search.md shows" in said
    assert not out.exists()


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_tensorrt_is_refused_where_it_is_known_and_cannot_be_loaded():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    with pytest.raises(UserError, match="TensorRT is measured on a GPU, not on cpu; expected --device cuda"):
        runtimes.tensorrt_latency(torch.nn.Conv2d(3, 4, 1), torch.empty(1, 3, 8, 8))
    # ONNX Runtime itself only warns, and would time the CPU.
    with pytest.raises(UserError, match="TensorrtExecutionProvider does not run the network here"):
        runtimes._session_latency(torch.nn.Conv2d(3, 4, 1), torch.empty(1, 3, 8, 8), runtimes.TENSORRT, {}, time.time)


def test_a_session_runs_all_of_the_network_on_the_images_that_were_given(monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    seen = []

    class Watched(onnxruntime.InferenceSession):
        def run_with_iobinding(self, binding, options=None):
            super().run_with_iobinding(binding, options)
            seen.append(binding.get_outputs()[0].numpy())

    monkeypatch.setattr(onnxruntime, "InferenceSession", Watched)
    network, images = torch.nn.Conv2d(3, 4, 3, stride=2), torch.randn(1, 3, 24, 40)
    assert runtimes.onnxruntime_latency(network, images) > 0
    assert len(seen) > runtimes.LEAST
    np.testing.assert_allclose(seen[-1], network(images).detach().numpy(), rtol=1e-4, atol=1e-5)
