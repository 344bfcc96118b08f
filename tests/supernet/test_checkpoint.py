import hashlib
import json
import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import SPACE

from data_plugin import SearchSpace, UserError
from data_plugin.backbones import DynamicResNet
from data_plugin.images.input_format import InputFormat
from data_plugin.supernet.checkpoint import Supernet, SupernetInfo, load_supernet, save_supernet
from data_plugin.utils.tensor_files import content_hash, read_tensors

OTHER = SearchSpace(stem=(4, 12), width=SPACE.width, depth=SPACE.depth)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    info = SupernetInfo(SPACE, "mocov2", InputFormat.imagenet(), {"steps": 3})
    heads = {"query.0.weight": torch.ones(2, 3)}
    save_supernet(tmp_path / "supernet.safetensors", Supernet(info, DynamicResNet(SPACE), DynamicResNet(SPACE), heads))
    return tmp_path / "supernet.safetensors"


def test_round_trip(saved):
    torch.manual_seed(0)
    query, key = DynamicResNet(SPACE), DynamicResNet(SPACE)
    found = load_supernet(saved, SPACE)
    assert found.info == SupernetInfo(SPACE, "mocov2", InputFormat.imagenet(), {"steps": 3})
    for ours, theirs in ((found.query, query), (found.key, key)):
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name
    assert list(found.heads) == ["query.0.weight"]
    assert not os.listdir(saved.parent)[1:]
    others = saved.parent / "plain"
    others.touch()
    assert saved.stat().st_mode == others.stat().st_mode


def test_another_space_is_refused(saved):
    with pytest.raises(UserError, match="another space"):
        load_supernet(saved, OTHER)


def test_weights_that_do_not_fit_the_named_space_are_listed(saved):
    tensors, header = read_tensors(saved)
    tensors["query.conv1.weight"] = torch.rand(5, 3, 7, 7)
    del tensors["query.bn1.weight"]
    save_file(tensors, saved, metadata=dict(header))
    with pytest.raises(UserError, match=r"1 missing \(bn1.weight\); 1 of another shape \(conv1.weight \(5, 3, 7, 7\)"):
        load_supernet(saved)


def rewrite(path, change):
    """Change tensors or header of a file, hash and all else left as they are."""
    tensors, header = read_tensors(path)
    header = dict(header)
    change(tensors, header)
    save_file(tensors, path, metadata=header)


def test_the_header_has_a_hash_of_the_weights_and_of_what_is_said_of_them(saved):
    tensors, header = read_tensors(saved)
    digest = hashlib.sha256((json.dumps(header["data_plugin.supernet"]) + "\n").encode())
    for name, value in sorted(tensors.items()):
        digest.update(f'["{name}", "{value.dtype}", {list(value.shape)}]\n'.encode())
        digest.update(value.numpy().tobytes())
    assert header["data_plugin.sha256"] == digest.hexdigest()


def test_one_flipped_bit_is_refused(saved):
    whole = saved.read_bytes()
    for place in (len(whole) - 1, len(whole) // 2, whole.index(b"123.675") + 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        saved.write_bytes(damaged)
        with pytest.raises(UserError, match=r"is damaged: .*; copy it again"):
            load_supernet(saved)


def test_exchanged_tensors_of_one_shape_are_refused(saved):
    def exchange(tensors, header):
        one, other = "query.conv1.weight", "key.conv1.weight"
        tensors[one], tensors[other] = tensors[other], tensors[one]

    rewrite(saved, exchange)
    with pytest.raises(UserError, match="is damaged"):
        load_supernet(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_neither_loaded_nor_saved(saved, value):
    def spoil(tensors, header):
        tensors["key.layer2.0.bn1.running_var"][1] = value
        header["data_plugin.sha256"] = content_hash(tensors, header["data_plugin.supernet"])

    supernet, whole = load_supernet(saved), saved.read_bytes()
    supernet.key.layer2[0].bn1.running_var[1] = value
    with pytest.raises(UserError, match=r"not finite, first in key.layer2.0.bn1.running_var"):
        save_supernet(saved, supernet)
    assert saved.read_bytes() == whole
    rewrite(saved, spoil)
    with pytest.raises(UserError, match=r"not finite, first in key.layer2.0.bn1.running_var"):
        load_supernet(saved)


def test_a_file_without_a_hash_is_read_with_a_warning_until_it_is_saved(saved):
    rewrite(saved, lambda tensors, header: header.pop("data_plugin.sha256"))
    with pytest.warns(UserWarning, match="has no hash of its weights"):
        supernet = load_supernet(saved)
    save_supernet(saved, supernet)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_supernet(saved)
    rewrite(saved, lambda tensors, header: (header.pop("data_plugin.sha256"), tensors["key.bn1.bias"].fill_(torch.nan)))
    with pytest.warns(UserWarning, match="has no hash"), pytest.raises(UserError, match="not finite"):
        load_supernet(saved)


def test_a_truncated_file_is_refused(saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(UserError, match="truncated"):
        load_supernet(saved)


def test_a_missing_or_foreign_file_is_refused(saved):
    with pytest.raises(UserError, match="is not a file"):
        load_supernet(saved.with_name("none.safetensors"))
    save_file(load_file(saved), saved)
    with pytest.raises(UserError, match="not a supernet of this project"):
        load_supernet(saved)


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_pickled_objects_are_refused_and_not_executed(tmp_path, ending):
    marker, path = tmp_path / "executed", tmp_path / f"evil{ending}"
    torch.save({"state_dict": Payload(marker)}, path)
    with pytest.raises(UserError, match="refused" if ending == ".pth" else "not a safetensors file"):
        load_supernet(path)
    path.write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(UserError):
        load_supernet(path)
    assert not marker.exists()


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()
    supernet = load_supernet(saved)

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_supernet(saved, supernet)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


@pytest.mark.parametrize(
    "other",
    [
        InputFormat("BGR", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        InputFormat("RGB", (103.53, 116.28, 123.675), (58.395, 57.12, 57.375)),
        InputFormat("RGB", (123.675, 116.28, 103.53), (1.0, 1.0, 1.0)),
    ],
)
def test_input_formats_are_compared(other):
    InputFormat.imagenet().require(InputFormat("RGB", (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)), "a config")
    with pytest.raises(UserError, match="a config feeds"):
        InputFormat.imagenet().require(other, "a config")
