"""A selection from images to the list that pre-training reads, and what cannot be selected."""

import json
import re
import shutil
import tarfile

import numpy as np
import pytest
from browser import in_browser
from PIL import Image
from processes import in_processes
from samples import SPACE, random_supernet, random_supernet_file, written_store

pytest.importorskip("sklearn", reason="clusters need scikit-learn")
pytest.importorskip("torchvision", reason="images are cut by torchvision")

from data_plugin import UserError, embed_images, select_coreset
from data_plugin.backbones import extract
from data_plugin.features.store import EmbeddingStore
from data_plugin.images.open import open_images
from data_plugin.supernet.backbone_files import save_backbone
from data_plugin.tools.select_coreset import main

OPEN, TARGET = 60, 6


def draw(folder, count, colour, seed):
    """Noise around a colour."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        noise = rng.integers(-40, 40, (40, 40, 3))
        Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{index:02d}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """An open set of green images, some red ones and one of the target's, and a target of red images."""
    root = tmp_path_factory.mktemp("data")
    draw(root / "open" / "green", OPEN - 13, (30, 200, 30), 0)
    draw(root / "open" / "red", 12, (200, 30, 30), 1)
    draw(root / "target", TARGET, (205, 25, 35), 2)
    shutil.copy(root / "target" / "03.png", root / "open" / "copy.png")
    return root


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    return random_supernet_file(tmp_path_factory.mktemp("supernet") / "supernet.safetensors")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A network whose features tell red from green, as those of one that was trained do."""
    folder = tmp_path_factory.mktemp("backbone")
    save_backbone(folder, extract(random_supernet().query, SPACE.largest))
    return folder


@pytest.fixture(scope="module")
def stores(data, backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    for name in ("open", "target"):
        embed(data / name, backbone, folder / name)
    return folder


def embed(images, backbone, out):
    given = {"image_size": 32, "shard_size": 16, "workers": 0, "device": "cpu"}
    return embed_images(images, backbone=backbone, out=out, **given)


def select(stores, out, *more):
    given = ["--open", stores / "open", "--target", stores / "target", "--out", out, *more]
    return main([str(argument) for argument in given])


def test_the_list_joins_target_and_coreset_and_is_read_by_pretraining(data, stores, tmp_path, capsys):
    out = tmp_path / "new" / "coreset.txt"
    assert select(stores, out, "--budget", "12", "--seed", "1") == 0
    said = capsys.readouterr().out
    assert "12 of 60 images chosen (20.00%)" in said
    assert "left out, since they are the target's pixel by pixel: 1" in said
    images = open_images(out)
    expected = {str(path) for path in (data / "target").iterdir()}
    expected |= {str(path) for path in (data / "open" / "red").iterdir()}
    assert set(images.names) == expected
    assert images.names != sorted(images.names)
    found = json.loads((out.parent / "selection.json").read_text())
    assert (found["budget"], found["images"], found["stopped"], found["seed"]) == ("12", 12, "budget", 1)
    assert found["clusters"] == TARGET
    assert found["duplicates"] == [str(data / "open" / "copy.png")]
    assert sum(each["images"] for each in found["rounds"]) == 12
    similarities = [each["similarity"] for each in found["rounds"]]
    assert similarities == sorted(similarities, reverse=True)
    assert set(found["coreset"]) | {str(path) for path in (data / "target").iterdir()} == expected
    select_coreset(stores / "open", stores / "target", out=tmp_path / "again" / "coreset.txt", budget=12, seed=1)
    assert (tmp_path / "again" / "coreset.txt").read_text() == out.read_text()


def test_without_a_budget_it_stops_where_images_are_too_far(tmp_path):
    similar = np.concatenate([np.linspace(1, 0.97, 30), np.linspace(0.5, 0.4, 30)])
    opened = np.stack([similar, np.sqrt(1 - similar**2)], axis=1)
    written_store(tmp_path / "open", opened)
    written_store(tmp_path / "target", np.array([[1.0, 0.0], [1.0, 0.0]]))
    coreset = select_coreset(tmp_path / "open", tmp_path / "target", out=tmp_path / "coreset.txt")
    assert coreset.chosen.images == list(range(30))
    assert str(coreset).startswith(
        "30 of 60 images chosen (50.00%) in 30 rounds; the next had a mean similarity of 0.5"
    )
    found = json.loads((tmp_path / "selection.json").read_text())
    assert (found["stopped"], len(found["rounds"])) == ("similarity", 30)
    assert found["threshold"] == pytest.approx(0.95 * similar[19], abs=1e-3)
    assert found["discarded"] == pytest.approx(0.5, abs=1e-3)


def test_without_a_budget_it_takes_50_times_the_target_at_the_most(tmp_path):
    written_store(tmp_path / "open", np.tile([1.0, 0.0], (120, 1)))
    written_store(tmp_path / "target", np.array([[1.0, 0.0], [0.8, 0.6]]))
    coreset = select_coreset(tmp_path / "open", tmp_path / "target", out=tmp_path / "coreset.txt")
    assert len(coreset.chosen.images) == 100


@pytest.mark.parametrize(("budget", "count"), [("5%", 3), ("0.01%", 1), ("100%", 59), (7, 7)])
def test_a_budget_is_a_number_or_a_part_of_what_there_is_to_choose_from(stores, tmp_path, budget, count):
    coreset = select_coreset(stores / "open", stores / "target", out=tmp_path / "coreset.txt", budget=budget)
    assert len(set(coreset.chosen.images)) == count


def test_copies_of_the_target_may_be_kept(stores, data, tmp_path):
    assert select(stores, tmp_path / "coreset.txt", "--budget", "1", "--keep-duplicates") == 0
    assert str(data / "open" / "copy.png") in open_images(tmp_path / "coreset.txt").names


def test_a_random_choice_is_one_of_any_images_but_the_targets(stores, data, tmp_path):
    assert select(stores, tmp_path / "coreset.txt", "--budget", "59", "--random") == 0
    found = json.loads((tmp_path / "selection.json").read_text())
    everything = {str(data / "open" / name) for name in open_images(data / "open").names}
    assert set(found["coreset"]) == everything - {str(data / "open" / "copy.png")}
    drawn = [
        select_coreset(
            stores / "open", stores / "target", out=tmp_path / str(seed) / "c.txt", budget=9, random=True, seed=seed
        ).chosen.images
        for seed in (0, 0, 1)
        if not shutil.rmtree(tmp_path / str(seed), ignore_errors=True)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 9


def test_images_are_embedded_first_where_they_are_not_yet(data, supernet, tmp_path, capsys):
    out = tmp_path / "coreset.txt"
    command = ["--open-data", data / "open", "--target-data", data / "target", "--supernet", supernet, "--out", out]
    command += ["--image-size", "32", "--shard-size", "16", "--workers", "0", "--device", "cpu", "--budget", "20%"]
    assert main([str(argument) for argument in command]) == 0
    assert "60 images at 32 pixels" in capsys.readouterr().out
    assert len(open_images(out)) == 12 + TARGET
    opened, target = (EmbeddingStore(tmp_path / f"{name}.store").header.network for name in ("open", "target"))
    assert opened == target
    assert opened["statistics"] == f"of {data / 'target'}"
    command[command.index("--out") + 1] = tmp_path / "again.txt"
    for name in ("selection.json", "selection.html", "open.store/00000003.json"):
        (tmp_path / name).unlink()
    assert main([str(argument) for argument in [*command, "--resume"]]) == 0
    assert (tmp_path / "again.txt").read_text() == out.read_text()


def test_members_of_tar_shards_are_chosen_and_read(data, backbone, stores, tmp_path):
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "0.tar", "w") as tar:
        tar.add(data / "open", "open")
    embed(tmp_path / "shards", backbone, tmp_path / "store")
    out = tmp_path / "coreset.txt"
    coreset = select_coreset(tmp_path / "store", stores / "target", out=out, budget=12)
    images = open_images(out)
    members = [name for name in images.names if ".tar/" in name]
    assert len(members) == len(coreset.chosen.images) == 12
    for index, name in enumerate(images.names):
        plain = data / "open" / "red" / name.rpartition("/")[2] if name in members else name
        np.testing.assert_array_equal(np.asarray(images.read(index)), np.asarray(Image.open(plain)))
        with images.file(index) as file:
            np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(Image.open(plain)))


@pytest.mark.slow
def test_two_processes_embed_and_choose_what_one_does(data, supernet, tmp_path):
    given = ["--open-data", data / "open", "--target-data", data / "target", "--supernet", supernet, "--image-size", 32]
    given += ["--calibrate", data / "open", "--shard-size", 16, "--workers", 0, "--device", "cpu"]
    given = [str(argument) for argument in [*given, "--clusters", 3, "--budget", 30, "--out"]]
    said = in_processes(tmp_path, 2, main, [*given, str(tmp_path / "two" / "coreset.txt")])
    assert said.count("30 of 60 images chosen") == said.count("60 images at 32 pixels") == 1
    assert main([*given, str(tmp_path / "one" / "coreset.txt")]) == 0
    for name in ("open.store", "target.store"):
        found, expected = (
            {path.name: path.read_bytes() for path in (tmp_path / each / name).iterdir()} for each in ("two", "one")
        )
        assert found == expected
    assert (tmp_path / "two" / "coreset.txt").read_text() == (tmp_path / "one" / "coreset.txt").read_text()
    found, expected = (json.loads((tmp_path / each / "selection.json").read_text()) for each in ("two", "one"))
    assert (found["rounds"], found["coreset"]) == (expected["rounds"], expected["coreset"])


@pytest.mark.slow
def test_a_browser_shows_the_page_without_a_network(stores, tmp_path):
    select_coreset(stores / "open", stores / "target", out=tmp_path / "coreset.txt", budget=40)
    page = (tmp_path / "selection.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    found, picture = in_browser(
        page,
        """
        const images = [...document.querySelectorAll("#sheet img")];
        return {rows: document.querySelectorAll("#sheet tbody tr").length,
                shown: images.filter(i => i.complete && i.naturalWidth == 40).length, images: images.length,
                plots: [...document.querySelectorAll("svg")].map(s => s.getBoundingClientRect().width)};
        """,
        tmp_path,
    )
    assert found["rows"] == TARGET
    assert found["shown"] == found["images"] > 4 * TARGET
    assert len(found["plots"]) == 2
    assert all(width > 400 for width in found["plots"])
    for colour in ((0xC3, 0xCC, 0xD6), (0x2C, 0x7A, 0x3F), (0xC0, 0x56, 0x2F)):  # open set, coreset, target
        assert (np.abs(picture - colour).sum(axis=2) < 12).sum() > 20, colour


def test_a_page_of_images_that_are_gone_says_what_they_were(tmp_path):
    features = np.eye(5)
    written_store(tmp_path / "<open>", features)
    written_store(tmp_path / "target", features[:2])
    select_coreset(tmp_path / "<open>", tmp_path / "target", out=tmp_path / "coreset.txt", budget=2)
    page = (tmp_path / "selection.html").read_text()
    assert 'class="gone" title="' in page
    assert "<img" not in page


WRONG = {
    "another network": (
        {"network": {"sha256": "1", "tap": "C5"}},
        [],
        "they differ in network.sha256 0 and 1; embed ",
    ),
    "another tap": ({"network": {"sha256": "0", "tap": "C4"}}, [], "they differ in network."),
    "another size": ({"preprocessing": {"resize": 256, "centre_crop": 224}}, [], "preprocessing.resize 37 and 256"),
    "a target that is larger": ({"count": 30}, [], "target has 30 images and the open set"),
    "an empty target": ({"count": 0}, [], "target is empty"),
    "copies alone": ({"pixels": ["same"] * 6}, [], "all images of .*open are the target's"),
    "a part above 100 %": ({}, ["--budget", "101%"], "the budget is '101%'; expected .* a part, 100% at the most"),
    "no part": ({}, ["--budget", "0%"], "the budget is '0%'"),
    "a budget of no number": ({}, ["--budget", "many"], "the budget is 'many'"),
    "a larger number": ({}, ["--budget", "21"], "the budget is 21, and there are 20 images to choose from"),
    "no clusters": ({}, ["--clusters", "0"], "the target's clusters are 0"),
    "random without end": ({}, ["--random"], "nothing that stops it; give a budget"),
    "a target that is not finite": ({"value": np.nan}, [], "target holds a feature that is not finite"),
    "weights for stores": ({}, ["--supernet", "shipped"], "--supernet and --backbone are for --open-data"),
}
"""What is wrong with a target or a command, and what the sentence says."""


@pytest.mark.parametrize("fault", WRONG)
def test_what_cannot_be_selected_is_said_and_nothing_is_written(fault, tmp_path, capsys):
    changes, more, message = WRONG[fault]
    changes = dict(changes)
    rng = np.random.default_rng(0)
    pixels = {"pixels": ["same"] * 20} if "pixels" in changes else {}
    written_store(tmp_path / "open", rng.normal(size=(20, 4)), **pixels)
    features = rng.normal(size=(changes.pop("count", 6), 4)) * changes.pop("value", 1)
    written_store(tmp_path / "target", features, **changes)
    assert select(tmp_path, tmp_path / "out" / "coreset.txt", *more) == 2
    assert re.fullmatch(f"error: [^\n]*{message}[^\n]*\n", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_an_open_set_that_is_not_finite_is_refused_with_the_image(tmp_path, capsys):
    features = np.random.default_rng(0).normal(size=(20, 4))
    features[17, 2] = np.inf
    written_store(tmp_path / "open", features)
    written_store(tmp_path / "target", features[:3])
    assert select(tmp_path, tmp_path / "out" / "coreset.txt", "--budget", "3") == 2
    assert "open holds a feature that is not finite, of 17.jpg" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_list_is_not_replaced_unless_that_is_asked_for(stores, tmp_path, capsys):
    out = tmp_path / "coreset.txt"
    (tmp_path / "selection.html").write_text("mine")
    assert select(stores, out, "--budget", "2") == 2
    assert "selection.html exists already" in capsys.readouterr().err
    assert (tmp_path / "selection.html").read_text() == "mine"
    assert not out.exists()
    assert select(stores, out, "--budget", "2", "--overwrite") == 0
    assert len(open_images(out)) == 2 + TARGET
    with pytest.raises(UserError, match=r"does not end in \.txt"):
        select_coreset(stores / "open", stores / "target", out=tmp_path / "coreset")
