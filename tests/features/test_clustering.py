"""Clustering a store: the tree, what is said of it, and what cannot be clustered."""

import itertools
import re

import numpy as np
import pytest
from browser import in_browser
from PIL import Image
from samples import written_store

pytest.importorskip("sklearn", reason="clusters need scikit-learn")

from data_plugin import UserError, cluster_store
from data_plugin.features import clustering
from data_plugin.features.codes import Codes, leaf_numbers
from data_plugin.tools.cluster import main


def clouds(images=24, branches=(3, 3), seed=0):
    """Features in a tree of clouds, each with as many images; and the cloud of each."""
    rng = np.random.default_rng(seed)
    centres = np.zeros((1, 24))
    for level, count in enumerate(branches):
        centres = np.repeat(centres, count, axis=0) + rng.normal(size=(len(centres) * count, 24)) / 3**level
    cloud = rng.permutation(np.repeat(np.arange(len(centres)), images))
    features = centres[cloud] + rng.normal(size=(len(cloud), 24)) / 30
    return features / np.linalg.norm(features, axis=1, keepdims=True), cloud


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    features, _ = clouds()
    return written_store(tmp_path_factory.mktemp("stores") / "store", features)


@pytest.fixture(scope="module")
def codes(store, tmp_path_factory):
    return cluster_store(store.folder, out=tmp_path_factory.mktemp("codes") / "codes", levels=2, children=3)


def stored(store):
    return store.features(range(store.images)).astype(np.float64)


def test_clouds_become_leaves_and_clouds_of_clouds_their_parts(codes):
    _, cloud = clouds()
    leaves = leaf_numbers(codes.digits, 3)
    assert len(set(zip(leaves.tolist(), cloud.tolist(), strict=True))) == 9
    assert len(set(zip(codes.digits[:, 0].tolist(), (cloud // 3).tolist(), strict=True))) == 3
    assert codes.names == [f"{index}.jpg" for index in range(216)]
    assert codes.header.sizes == (24,) * 9


@pytest.mark.parametrize(
    ("images", "levels", "children"), [(61, 3, 3), (90, 3, 4), (64, 3, 4), (300, 4, 3), (100, 1, 7)]
)
def test_leaves_are_within_a_factor_of_two_of_each_other(images, levels, children, tmp_path):
    features = np.random.default_rng(0).normal(size=(images, 5)) + np.array([2, 0, 0, 0, 0.0])
    features[: images // 3] = features[0]  # many that no cluster can tell apart
    store = written_store(tmp_path / "store", features / np.linalg.norm(features, axis=1, keepdims=True))
    sizes = cluster_store(store.folder, out=tmp_path / "codes", levels=levels, children=children).header.sizes
    assert len(sizes) == children**levels
    assert sum(sizes) == images
    assert max(sizes) <= 2 * min(sizes)


@pytest.mark.parametrize(("images", "leaves"), [*itertools.product((256, 257, 300, 383, 384, 400, 500, 511), (256,))])
def test_bounds_of_leaves_leave_room_for_all_images(images, leaves):
    least, most = clustering._leaf_bounds(images, leaves)
    assert most == 2 * least
    assert least * leaves <= images <= most * leaves


def test_the_same_seed_gives_the_same_codes_however_the_store_is_divided(tmp_path, monkeypatch):
    features, _ = clouds(branches=(5, 2))  # which no tree of threes fits
    found = []
    for shard_size, block in ((7, 8_192), (7, 50), (100, 13), (1_000, 8_192)):
        monkeypatch.setattr(clustering, "BLOCK", block)
        store = written_store(tmp_path / f"store {shard_size} {block}", features, shard_size)
        found.append(cluster_store(store.folder, out=tmp_path / f"codes {shard_size} {block}", levels=3, children=3))
    assert len({each.fingerprint() for each in found}) == 1
    assert len({(each.folder / "centroids.safetensors").read_bytes() for each in found}) == 1
    other = cluster_store(store.folder, out=tmp_path / "other", levels=3, children=3, seed=1)
    assert other.fingerprint() != found[0].fingerprint()


def test_centroids_that_are_found_on_some_of_the_images_divide_all(store, codes, tmp_path, monkeypatch):
    monkeypatch.setattr(clustering, "SAMPLE", 60)
    sampled = cluster_store(store.folder, out=tmp_path / "codes", levels=2, children=3)
    pairs = zip(leaf_numbers(sampled.digits, 3).tolist(), leaf_numbers(codes.digits, 3).tolist(), strict=True)
    assert len(set(pairs)) == 9


def test_centroids_and_similarities_are_those_of_the_images_of_each_part(store, codes):
    features = stored(store)
    for level, centroids in enumerate(codes.centroids):
        parts = leaf_numbers(codes.digits[:, : level + 1], 3)
        means = np.stack([features[parts == part].mean(axis=0) for part in range(3 ** (level + 1))])
        expected = means / np.linalg.norm(means, axis=1, keepdims=True)
        np.testing.assert_allclose(centroids, expected, atol=1e-6)
        similarity = np.einsum("nc,nc->n", features, expected[parts]).mean()
        assert codes.header.cohesion[level] == pytest.approx(similarity, abs=1e-6)
        assert codes.header.random_cohesion[level] < similarity - 0.1
    whole = features.mean(axis=0)
    np.testing.assert_allclose(codes.centroid, whole / np.linalg.norm(whole), atol=1e-6)
    assert (codes.assign(features) == codes.digits).all()


def test_the_network_of_the_features_comes_along(store, tmp_path):
    (store.folder / "network.safetensors").write_bytes(b"weights")
    codes = cluster_store(store.folder, out=tmp_path / "codes", levels=2, children=3)
    assert (codes.folder / "network.safetensors").read_bytes() == b"weights"
    (store.folder / "network.safetensors").unlink()
    cluster_store(store.folder, out=tmp_path / "codes", levels=2, children=3, overwrite=True)
    assert not (codes.folder / "network.safetensors").exists()


def test_random_parts_are_of_equal_size_and_of_unlike_images(store, tmp_path):
    codes = cluster_store(store.folder, out=tmp_path / "codes", levels=3, children=3, random=True)
    assert codes.header.random
    assert set(codes.header.sizes) == {8}
    assert codes.header.cohesion == pytest.approx(codes.header.random_cohesion, abs=0.1)
    assert "dealt at random" in str(codes)
    again = cluster_store(store.folder, out=tmp_path / "again", levels=3, children=3, random=True)
    other = cluster_store(store.folder, out=tmp_path / "other", levels=3, children=3, random=True, seed=1)
    assert codes.fingerprint() == again.fingerprint() != other.fingerprint()


def test_the_tool_says_what_came_of_it(store, codes, tmp_path, capsys):
    command = ["--store", store.folder, "--out", tmp_path / "codes", "--levels", 2, "--children", 3]
    assert main([str(argument) for argument in command]) == 0
    said = capsys.readouterr().out
    assert "216 images in 9 leaves of 24 to 24 images, 2 levels of 3 children\n" in said
    assert re.search(r"by level: 0\.\d{3}, 0\.\d{3} \(random parts: 0\.\d{3}, 0\.\d{3}\)\n", said)
    assert Codes.read(tmp_path / "codes").fingerprint() == codes.fingerprint()


WRONG = {
    "too few images": (["--levels", "5"], "store has 216 images, and 5 levels of 3 children are 243 leaves; expected "),
    "no levels": (["--levels", "0"], "the levels are 0; expected at least 1"),
    "one child": (["--children", "1"], "the children of a part are 1; expected 2 to 255"),
    "more than a digit": (["--children", "256"], "the children of a part are 256; expected 2 to 255"),
    "no store": (["--store", "missing"], "expected the folder of an embedding store"),
    "out is a file": (["--out", "file"], "file is a file; expected a folder"),
    "out holds others": (["--out", "others", "--overwrite"], "others holds other files; give a folder that is empty"),
    "out holds codes": (["--out", "codes"], "codes holds codes already; give another folder, or pass --overwrite"),
}
"""What is wrong with a command, and what the sentence says."""


@pytest.mark.parametrize("fault", WRONG)
def test_what_cannot_be_clustered_is_said_and_nothing_is_written(fault, store, codes, tmp_path, capsys, monkeypatch):
    more, message = WRONG[fault]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "cat.jpg").write_bytes(b"")
    (tmp_path / "codes").symlink_to(codes.folder)
    before = {path: path.read_bytes() for path in codes.folder.iterdir()}
    given = ["--store", str(store.folder), "--out", "new", "--levels", "2", "--children", "3"]
    assert main([*given, *more]) == 2
    assert re.fullmatch(f"error: [^\n]*{message}[^\n]*\n", capsys.readouterr().err)
    assert not (tmp_path / "new").exists()
    assert {path: path.read_bytes() for path in codes.folder.iterdir()} == before
    assert (tmp_path / "others" / "cat.jpg").is_file()


def test_a_feature_that_is_not_finite_is_refused_with_its_image(tmp_path):
    features, _ = clouds()
    features[17, 2] = np.nan
    store = written_store(tmp_path / "store", features)
    for random in (False, True):
        with pytest.raises(UserError, match=r"a feature that is not finite, of .*17\.jpg; embed the images"):
            cluster_store(store.folder, out=tmp_path / "codes", levels=2, children=3, random=random)
    assert not (tmp_path / "codes").exists()


def test_features_that_are_all_the_same_are_refused(tmp_path):
    store = written_store(tmp_path / "store", np.tile([0.6, 0.8], (30, 1)))
    with pytest.raises(UserError, match="the same for all images, so there is nothing to cluster"):
        cluster_store(store.folder, out=tmp_path / "codes", levels=2, children=3)
    assert not (tmp_path / "codes").exists()


def test_several_processes_are_refused(store, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="the work of one process; do it without torchrun"):
        cluster_store(store.folder, out=tmp_path / "codes", levels=2, children=3)


def test_codes_are_replaced_where_that_is_asked_for(store, tmp_path):
    cluster_store(store.folder, out=tmp_path / "codes", levels=2, children=3)
    replaced = cluster_store(store.folder, out=tmp_path / "codes", levels=1, children=2, overwrite=True)
    assert Codes.read(tmp_path / "codes").header == replaced.header
    assert [each.shape for each in replaced.centroids] == [(2, 24)]


def test_codes_whose_replacement_was_interrupted_are_unfinished(store, tmp_path, monkeypatch):
    cluster_store(store.folder, out=tmp_path / "codes", levels=2, children=3)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("data_plugin.features.codes.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cluster_store(store.folder, out=tmp_path / "codes", levels=1, children=2, overwrite=True)
    with pytest.raises(UserError, match="expected the folder of codes that data-cluster finished"):
        Codes.read(tmp_path / "codes")
    monkeypatch.undo()
    cluster_store(store.folder, out=tmp_path / "codes", levels=1, children=2, overwrite=True)


@pytest.mark.slow
def test_a_browser_shows_the_page_without_a_network(tmp_path):
    features, _ = clouds(images=12)
    store = written_store(tmp_path / "store", features)
    for name in store.paths(range(store.images - 1)):
        Image.new("RGB", (50, 40), (30, 200, 30)).save(name)
    page = (cluster_store(store.folder, out=tmp_path / "codes", levels=2, children=3).folder / "codes.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    found, picture = in_browser(
        page,
        """
        const images = [...document.querySelectorAll("#sheet img")];
        return {rows: [...document.querySelectorAll("#sheet th")].map(e => e.textContent),
                shown: images.filter(i => i.complete && i.naturalWidth == 50).length, images: images.length,
                plots: [...document.querySelectorAll("svg")].map(s => s.getBoundingClientRect().width)};
        """,
        tmp_path,
    )
    assert found["rows"] == [f"{first},{second}" for first, second in itertools.product(range(3), repeat=2)]
    assert found["shown"] == found["images"] >= 9 * 9
    assert len(found["plots"]) == 2
    assert all(width > 400 for width in found["plots"])
    assert (np.abs(picture - (0x2C, 0x7A, 0x3F)).sum(axis=2) < 12).sum() > 1_000
