"""Embedding images: the features, the store's files, and what happens to a process that is killed."""

import shutil
import signal
import subprocess
import sys
import tarfile
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from samples import SPACE, random_supernet, random_supernet_file

from data_plugin import UserError, embed_images
from data_plugin.backbones import extract
from data_plugin.features.embedder import read_embedder
from data_plugin.features.store import EmbeddingStore
from data_plugin.images.open import open_images
from data_plugin.space.arch import Arch
from data_plugin.supernet.backbone_files import save_backbone
from data_plugin.tools.embed import main

pytest.importorskip("torchvision", reason="images are cut by torchvision")

pytestmark = pytest.mark.filterwarnings("ignore:the batch-norm statistics of")

SIZE = 32


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    return random_supernet_file(tmp_path_factory.mktemp("supernet") / "supernet.safetensors")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Eleven images of several sizes, the fourth of which cannot be read."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(11):
        path = folder / str(index % 2) / f"{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40 + index, 50, 3), dtype=np.uint8)).save(path)
    (folder / "1" / "03.png").write_bytes(b"no image")
    return folder


def embed(images, supernet, out, **options):
    given = {"image_size": SIZE, "batch_size": 3, "shard_size": 4, "workers": 0, "device": "cpu"}
    return embed_images(images, supernet=supernet, out=out, **(given | options))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def naive(path, network):
    """The 1-crop protocol by hand: shorter side to 256/224 of the crop, centre, ImageNet's normalisation, pooled."""
    image = Image.open(path).convert("RGB")
    side = round(SIZE * 256 / 224)
    width, height = image.size
    scaled = (side, int(side * height / width)) if width < height else (int(side * width / height), side)
    image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((scaled[0] - SIZE) / 2), round((scaled[1] - SIZE) / 2)
    pixels = np.asarray(image.crop((left, top, left + SIZE, top + SIZE)), dtype=np.float32)
    pixels = (pixels - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    with torch.no_grad():
        maps = network(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])
    feature = maps[-1].mean((2, 3))[0].numpy()
    return feature / np.linalg.norm(feature)


def test_features_are_the_pooled_map_of_the_centre_crop_of_each_image_that_can_be_read(images, supernet, tmp_path):
    store = embed(images, supernet, tmp_path / "store")
    names = [name for block in store for name in block.names]
    assert names == [name for name in open_images(images).names if name != "1/03.png"]
    assert store.unreadable == ["1/03.png"]
    network = extract(random_supernet().query, SPACE.largest)
    expected = np.stack([naive(images / name, network) for name in names])
    found = np.concatenate([block.features for block in store])
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert isinstance(store[0].features, np.memmap)
    assert [block.start for block in store] == [0, 4, 7]
    np.testing.assert_array_equal(store.features([9, 0, 5]), found[[9, 0, 5]].astype(np.float32))
    assert store.paths([9, 0]) == [str(images / names[9]), str(images / names[0])]


def test_another_network_another_tap_and_a_backbone_are_embedded_alike(images, supernet, tmp_path):
    arch = Arch.parse("d1-2-1-2_w4-8-12-8-24")
    network = extract(random_supernet().query, arch)
    save_backbone(tmp_path / "backbone", network)
    of_supernet = embed(images, supernet, tmp_path / "a", arch=str(arch), tap="C4")
    of_folder = embed(images, None, tmp_path / "b", backbone=tmp_path / "backbone", tap="C4")
    of_file = embed(images, None, tmp_path / "c", backbone=tmp_path / "backbone" / "backbone.pth", tap="C4")
    assert of_supernet.header.dim == arch.out_channels[2]
    for other in (of_folder, of_file):
        np.testing.assert_array_equal(other[0].features, of_supernet[0].features)
        assert other.header.network["sha256"] == of_supernet.header.network["sha256"]


def test_the_network_of_a_store_embeds_other_images_as_its_own(images, supernet, tmp_path):
    store = embed(images, supernet, tmp_path / "store", calibrate=images / "0", tap="C4")
    other = embed(images / "1", supernet, tmp_path / "other", calibrate=images / "0", tap="C4")
    embedder = read_embedder(store.folder / "network.safetensors", store.header, torch.device("cpu"))
    assert (embedder.description, embedder.preprocessing) == (store.header.network, store.header.preprocessing)
    read = [Image.open(path) for path in other.paths(range(other.images))]
    found = embedder(torch.stack([embedder.transform(image.convert("RGB")) for image in read]))
    np.testing.assert_allclose(found, other.features(range(other.images)), atol=1e-3)


def test_a_network_that_is_not_that_of_a_store_is_refused(images, supernet, tmp_path):
    store, other = (embed(images / "0", supernet, tmp_path / tap, tap=tap) for tap in ("C4", "C5"))
    moved = embed(images / "0", supernet, tmp_path / "calibrated", calibrate=images / "0", tap="C4")
    weights = store.folder / "network.safetensors"
    for wrong, message in ((other, "does not hold the network of these"), (moved, "is damaged: it is not the network")):
        shutil.copy(wrong.folder / "network.safetensors", weights)
        with pytest.raises(UserError, match=message):
            read_embedder(weights, store.header, torch.device("cpu"))
    weights.unlink()
    with pytest.raises(UserError, match="C4 was made without the network of its features, by an earlier version"):
        read_embedder(weights, store.header, torch.device("cpu"))


def test_statistics_may_be_estimated_on_other_images(images, supernet, tmp_path):
    store = embed(images, supernet, tmp_path / "a", calibrate=images / "0")
    again = embed(images / "0", supernet, tmp_path / "b", calibrate=images / "0")
    running = embed(images / "0", supernet, tmp_path / "c")
    assert store.header.network == again.header.network
    assert store.header.network["sha256"] != running.header.network["sha256"]
    assert np.abs(again[0].features - running[0].features.astype(np.float32)).max() > 0.01


def test_statistics_that_fit_none_of_a_supernets_networks_are_warned_of(images, supernet, tmp_path):
    with pytest.warns(UserWarning, match="mix those of all its networks and fit none; --calibrate, "):
        embed(images / "0", supernet, tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed(images / "0", supernet, tmp_path / "b", calibrate=images / "0")


def test_folder_list_and_shards_of_the_same_images_have_the_same_features_and_are_found_again(
    images, supernet, tmp_path
):
    names = open_images(images).names
    (tmp_path / "list.txt").write_text("".join(f"{images / name}\n" for name in names))
    (tmp_path / "shards").mkdir()
    for shard, part in enumerate((names[:6], names[6:])):
        with tarfile.open(tmp_path / "shards" / f"{shard}.tar", "w") as tar:
            for name in part:
                tar.add(images / name, name)
    stores = [
        embed(source, supernet, tmp_path / f"store {number}")
        for number, source in enumerate((images, tmp_path / "list.txt", tmp_path / "shards"))
    ]
    for store in stores:
        np.testing.assert_array_equal(store[1].features, stores[0][1].features)
        assert store[1].pixels == stores[0][1].pixels
        (tmp_path / "again.txt").write_text("".join(f"{path}\n" for path in store.paths(range(store.images))))
        again = open_images(tmp_path / "again.txt")
        shown = [np.asarray(again.read(index)) for index in range(len(again))]
        readable = [name for name in names if name != "1/03.png"]
        for pixels, name in zip(shown, readable, strict=True):
            np.testing.assert_array_equal(pixels, np.asarray(Image.open(images / name)))


KILLED = """
import os, signal, sys
from data_plugin.features import store
from data_plugin.tools.embed import main
whole, written = store.write_whole, []
def write_whole(path, write):
    def killed(temporary):
        write(temporary)
        written.append(path)
        if len(written) == 5:  # the header and two files a shard: in the middle of the second
            os.kill(os.getpid(), signal.SIGKILL)
    whole(path, killed)
store.write_whole = write_whole
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_process_is_resumed_to_the_same_bytes(images, supernet, tmp_path):
    whole = embed(images, supernet, tmp_path / "whole")
    options = ["--image-size", SIZE, "--batch-size", 3, "--shard-size", 4, "--workers", 0, "--device", "cpu"]
    command = ["--data", images, "--supernet", supernet, "--out", tmp_path / "killed", *options]
    arguments = [str(argument) for argument in command]
    ended = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    held = contents(tmp_path / "killed")
    assert "00000000.json" in held
    assert "00000001.json" not in held
    assert any(name.endswith(".tmp") for name in held)
    with pytest.raises(UserError, match=r"killed is unfinished, 2 of its 3 shards are missing; finish it with"):
        EmbeddingStore(tmp_path / "killed")
    assert main([*arguments, "--resume"]) == 0
    assert contents(tmp_path / "killed") == contents(whole.folder)


def test_the_tool_names_what_it_could_not_read(images, supernet, tmp_path, capsys):
    arguments = ["--data", images, "--supernet", supernet, "--out", tmp_path / "store", "--image-size", SIZE]
    arguments += ["--workers", 0, "--device", "cpu"]
    assert main([str(argument) for argument in arguments]) == 0
    said = capsys.readouterr().out
    assert f"10 images at 32 pixels, {SPACE.largest} at C5" in said
    assert "1 of 11 images could not be read and was left out: 1/03.png" in said


def wrong(images, supernet, tmp_path):
    store = embed(images / "0", supernet, tmp_path / "store")
    (tmp_path / "file").write_text("")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "cat.jpg").write_bytes(b"")
    (tmp_path / "unreadable").mkdir()
    (tmp_path / "unreadable" / "cat.jpg").write_bytes(b"")
    return store


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": "store"}, "store holds an embedding store already; give another folder, or --resume or --overwrite"),
        ({"out": "store", "resume": True, "tap": "C4"}, r"begun with something else \(network.sha256 "),
        ({"out": "store", "resume": True, "image_size": 40}, r"\(preprocessing.resize 37 and 46\)"),
        ({"out": "new", "resume": True}, "nothing to resume: .*new holds no embedding store"),
        ({"out": "others", "overwrite": True}, "others holds other files"),
        ({"out": "file"}, "file is a file"),
        ({"tap": "z"}, "'z' is no tap to embed at; expected C2, C3, C4, C5"),
        ({"arch": "d9-1-1-1_w4-4-8-8-16"}, "does not fit inside this supernet"),
        ({"image_size": None}, "does not say at which image size it was pre-trained; give one with --image-size"),
        ({"image_size": 0}, "the image size is 0"),
        ({"supernet": None}, "expected either a supernet or a backbone"),
        ({"images": "missing"}, "missing is not a folder"),
        ({"images": "unreadable"}, "none of the 1 images of .*unreadable can be read"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
    ],
)
def test_what_cannot_be_embedded_is_said_and_nothing_is_lost(images, supernet, tmp_path, changes, message):
    before = contents(wrong(images, supernet, tmp_path).folder)
    given = {"images": images / "0", "supernet": supernet, "out": "out"} | changes
    source, out = tmp_path / given.pop("images"), tmp_path / given.pop("out")
    with pytest.raises(UserError, match=message):
        embed(source, given.pop("supernet"), out, **given)
    assert contents(tmp_path / "store") == before
    assert (tmp_path / "others" / "cat.jpg").is_file()


def test_a_store_is_replaced_where_that_is_asked_for(images, supernet, tmp_path):
    embed(images, supernet, tmp_path / "store", shard_size=2)
    embed(images / "0", supernet, tmp_path / "store", overwrite=True)
    assert sorted(contents(tmp_path / "store")) == [
        "00000000.json", "00000000.npy", "00000001.json", "00000001.npy", "network.safetensors", "store.json",
    ]  # fmt: skip


def test_features_that_are_not_finite_are_refused_with_the_image(images, supernet, tmp_path, monkeypatch):
    def lost(self, pixels):
        return np.full((len(pixels), self.dim), np.nan, np.float16)

    monkeypatch.setattr("data_plugin.features.embedder.Embedder.__call__", lost)
    with pytest.raises(UserError, match=r"the network's feature of .*00\.png is not finite"):
        embed(images, supernet, tmp_path / "store")
    assert sorted(contents(tmp_path / "store")) == ["network.safetensors", "store.json"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "store.json").write_text("{"), r"store\.json cannot be read"),
        (lambda folder: (folder / "store.json").unlink(), r"expected the folder of an embedding store"),
        (lambda folder: (folder / "00000001.json").unlink(), "is unfinished, 1 of its 2 shards are missing"),
        (lambda folder: (folder / "00000001.npy").write_bytes(b""), r"00000001\.npy is damaged"),
        (lambda folder: np.save(folder / "00000001.npy", np.zeros((2, 3))), r"float64 \(2, 3\); expected float16"),
    ],
)
def test_a_store_that_is_not_whole_is_refused(images, supernet, tmp_path, spoil, message):
    spoil(embed(images / "0", supernet, tmp_path / "store").folder)
    with pytest.raises(UserError, match=message):
        EmbeddingStore(tmp_path / "store")
