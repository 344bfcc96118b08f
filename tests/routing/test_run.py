"""Routing from images to a sub-net with its weights and configs, and what cannot be routed."""

import itertools
import json
import re
import shutil

import numpy as np
import pytest
import torch
from browser import in_browser
from PIL import Image
from samples import SMALL_C4, SPACE, random_supernet_file

pytest.importorskip("sklearn", reason="clusters need scikit-learn")
pytest.importorskip("torchvision", reason="images are cut by torchvision")

from data_plugin import UserError, embed_images, load_supernet, route_supernet
from data_plugin.backbones import DATAResNet, extract
from data_plugin.features.codes import Codes
from data_plugin.frameworks.registry import MMDET
from data_plugin.images.open import open_images
from data_plugin.supernet.calibration import calibrate
from data_plugin.supernet.checkpoint import load_routed_supernet
from data_plugin.tools.route import main


def arguments(trained, out, *more):
    given = ["--supernet", trained.supernet, "--codes", trained.codes, "--out", out, "--image-count", "all"]
    return [*map(str, [*given, "--device", "cpu", *more])]


def route(trained, images, out, **options):
    given = {"codes": trained.codes, "images": images, "out": out, "image_count": None, "device": "cpu", **options}
    return route_supernet(trained.supernet, **given)


@pytest.mark.parametrize("colour", ["red", "blue"])
def test_images_go_to_the_sub_net_that_has_seen_such(trained, drawn, tmp_path, colour):
    found = route(trained, drawn(**{colour: 9, "green": 3}), tmp_path / "out")
    assert found.path == trained.paths[colour]
    assert dict(found.votes.ranking) == {trained.paths[colour]: 9, trained.paths["green"]: 3}
    assert found.votes.share(found.path) == 0.75
    assert found.similarity.nearest >= found.route_similarity > found.similarity.whole
    assert found.route_similarity == max(found.similarity.by_sub_net)


def test_codes_are_those_that_a_store_of_the_images_would_have(trained, drawn, tmp_path):
    """By way of a store of the task's images, and the nearest centroid level by level."""
    images = drawn(red=3, green=4, blue=2, grey=5)
    codes = Codes.read(trained.codes)
    backbone = trained.supernet.parent / "backbone"
    store = embed_images(images, backbone=backbone, out=tmp_path / "store", image_size=32, workers=0, device="cpu")
    features = store.features(range(store.images)).astype(np.float64)
    expected, to_own = [0] * 4, []
    for feature in features:
        number = 0
        for centroids in codes.centroids:
            number = 2 * number + int(np.argmax([centroids[2 * number + child] @ feature for child in range(2)]))
        expected[number] += 1
        to_own.append(codes.centroids[-1][number] @ feature)
    found = route(trained, images, tmp_path / "out")
    assert found.votes.counts == expected
    assert found.similarity.nearest == pytest.approx(np.mean(to_own), abs=1e-3)
    assert found.similarity.whole == pytest.approx((features @ codes.centroid).mean(), abs=1e-3)
    for centroid, similarity in zip(codes.centroids[-1], found.similarity.by_sub_net, strict=True):
        assert similarity == pytest.approx((features @ centroid).mean(), abs=1e-3)


def test_the_folder_holds_the_sub_net_and_one_network_of_it(trained, drawn, tmp_path):
    images = drawn(green=8)
    found = route(trained, images, tmp_path / "out", arch="middle")
    routed = load_routed_supernet(trained.supernet)
    sub_net, image = load_supernet(found.supernet), torch.rand(1, 3, 32, 32)
    assert sub_net.info.training["sub_net"]["path"] == list(found.path)
    for branch in ("query", "key"):
        expected = getattr(routed, branch)(image, SPACE.largest, found.path)
        for one, other in zip(getattr(sub_net, branch)(image, SPACE.largest), expected, strict=True):
            assert torch.equal(one, other)

    network = found.backbone()
    assert isinstance(network, DATAResNet)
    assert network.arch == SPACE.middle
    expected = extract(routed.query, SPACE.middle, found.path)
    # Statistics are those of the task's images, in batches of four that count alike.
    from data_plugin.images.batch import draw_batches
    from data_plugin.search.downstream import CroppedImages

    source = CroppedImages(open_images(images), 32, routed.info.input_format)
    calibrate([expected], [batch.images for batch in draw_batches(source, 8, 4, 0)])
    own, plain = network.state_dict(), expected.state_dict()
    for name, value in plain.items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(own[name], value)

    said = json.loads((tmp_path / "out" / "route.json").read_text())
    assert said["route"] == list(found.path)
    assert said["arch"] == str(SPACE.middle)
    assert said["votes"]["counts"] == list(found.votes.counts)
    assert said["votes"]["shares_by_level"] == [1.0, 1.0]
    assert said["codes"]["fingerprint"] == Codes.read(trained.codes).fingerprint()
    assert said["doubts"] == []
    assert str(found.arch) in found._repr_html_()


def test_a_detectors_images_are_routed_through_its_own_loader_and_its_config_trains(
    trained, drawn_voc, tmp_path, capsys
):
    pytest.importorskip("mmdet", reason="MMDetection is not installed")
    root = tmp_path / "VOCdevkit"
    shutil.copytree(drawn_voc, root)
    for index, path in enumerate(sorted((root / "VOC2007" / "JPEGImages").iterdir())):
        noise = np.random.default_rng(index).integers(-30, 30, (120, 160, 3))
        Image.fromarray((np.array((30, 200, 30)) + noise).clip(0, 255).astype(np.uint8)).save(path)
    out = tmp_path / "out"
    more = ["--config", "faster_rcnn_c4_voc", "--data-root", root, "--framework", "mmdet", "--opts", *SMALL_C4["mmdet"]]
    assert main(arguments(trained, out, *more)) == 0
    said = capsys.readouterr().out
    path = ",".join(map(str, trained.paths["green"]))
    assert f"route {path}: 100.0% of 8 images fall to this one of 4 sub-nets" in said
    config = out / "backbone" / "faster_rcnn_c4_voc.py"
    assert f"--config {config} --data-root {root} --out {out / 'finetuned'}" in said
    assert f"--supernet {out / 'supernet.safetensors'} --config faster_rcnn_c4_voc --data-root {root}" in said
    assert "backbone.pth" in config.read_text()
    opened = MMDET.open(str(config), SMALL_C4["mmdet"], root)
    assert len(opened.images()) == 8
    assert json.loads((out / "route.json").read_text())["framework"] == "mmdet"


def test_a_sub_net_may_be_asked_for(trained, drawn, tmp_path):
    path = trained.paths["grey"]
    found = route(trained, drawn(red=8), tmp_path / "out", path=path)
    assert found.path == path
    assert found.votes.first == trained.paths["red"]
    assert load_supernet(found.supernet).info.training["sub_net"]["path"] == list(path)
    assert f"{','.join(map(str, path))} was asked for" in str(found)


def test_few_images_of_two_kinds_are_said_to_be_unsure(trained, drawn, tmp_path):
    found = route(trained, drawn(red=4, green=3), tmp_path / "out")
    assert found.votes.confidence < 0.95
    assert "but other images of the same kind might lead to another sub-net" in str(found)


def test_sub_nets_on_random_codes_are_a_control_and_said_to_be(control, drawn, tmp_path):
    found = route(control, drawn(red=4), tmp_path / "out")
    assert "but the images of the pre-training were dealt at random" in str(found)


def test_images_are_drawn_by_the_seed(trained, drawn, tmp_path):
    images = drawn(red=8, green=8, blue=8, grey=8)
    counts = [
        route(trained, images, tmp_path / f"{number}", image_count=9, seed=seed).votes.counts
        for number, seed in enumerate((0, 0, 1))
    ]
    assert counts[0] == counts[1] != counts[2]
    assert sum(counts[0]) == 9


def test_with_labels_the_most_accurate_sub_net_is_taken(trained, drawn, tmp_path, capsys):
    labels = striped(tmp_path / "labels")
    random_supernet_file(tmp_path / "unified.safetensors")
    more = ["--labels", labels, "--neighbours", 3, "--unified", tmp_path / "unified.safetensors"]
    assert main(arguments(trained, tmp_path / "out", *more)) == 0
    said, found = capsys.readouterr().out, json.loads((tmp_path / "out" / "route.json").read_text())
    by_sub_net = found["accuracies"]["by_sub_net"]
    paths = list(itertools.product(range(2), repeat=2))
    assert found["route"] == list(paths[int(np.argmax(by_sub_net))]) == found["accuracies"]["best"]
    assert found["votes"]["images"] == found["accuracies"]["images"] == 24
    assert (found["neighbours"], found["labels"]) == (3, str(labels))
    assert "of 24 labelled images the route is right on" in said
    assert f"the unified network is right on {found['accuracies']['unified']:.1%}" in said
    assert load_supernet(tmp_path / "out" / "supernet.safetensors").info.training["sub_net"]["path"] == found["route"]
    assert "What labels say" in (tmp_path / "out" / "route.html").read_text()


@pytest.mark.slow
def test_a_browser_shows_the_page_without_a_network(trained, drawn, tmp_path):
    route(trained, drawn(red=8, green=3), tmp_path / "out")
    page = (tmp_path / "out" / "route.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    found, picture = in_browser(
        page,
        """
        const images = [...document.querySelectorAll("#sheet img")];
        return {rows: [...document.querySelectorAll("#sheet tbody th")].map(e => e.textContent),
                shown: images.filter(i => i.complete && i.naturalWidth > 30).length, images: images.length,
                plots: [...document.querySelectorAll("svg")].map(s => s.getBoundingClientRect().width)};
        """,
        tmp_path,
    )
    assert found["rows"] == [",".join(map(str, trained.paths[colour])) for colour in ("red", "green")]
    assert found["shown"] == found["images"] == 7 + 7 + 3 + 7
    assert found["plots"][0] > 400
    assert (np.abs(picture - (0x2C, 0x7A, 0x3F)).sum(axis=2) < 12).sum() > 500


def striped(folder):
    """Two classes of grey images with noise: of horizontal and of vertical stripes."""
    rng = np.random.default_rng(0)
    for name in ("across", "along"):
        (folder / name).mkdir(parents=True)
        for index in range(12):
            stripes = 128 + 60 * np.sign(np.sin(np.arange(40) + rng.uniform(0, 6)))[:, None] * np.ones(40)
            pixels = (stripes if name == "across" else stripes.T)[:, :, None] + rng.normal(0, 60, (40, 40, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{index}.png")
    return folder


WRONG = {
    "no groups": (["--supernet", "plain.safetensors"], "is a supernet without groups; expected one that data-pretrain"),
    "other codes": (["--codes", "others"], "was trained with other codes than those in others; give the folder of"),
    "no codes": (["--codes", "missing"], "expected the folder of codes that data-cluster finished"),
    "no such sub-net": (["--path", "0,2"], "there is no sub-net 0,2; expected 2 numbers from 0 to 1, such as 0,0"),
    "a path too short": (["--path", "1"], "there is no sub-net 1; expected 2 numbers"),
    "no images": (["--images", "missing"], "missing is not a folder"),
    "an image that is none": (["--images", "damaged"], "cat.jpg cannot be read; replace or remove it"),
    "a network that does not fit": (["--arch", "d9-1-1-1_w4-4-8-8-16"], "does not fit inside this supernet"),
    "a framework without a config": (["--framework", "mmdet"], "framework was given, which is for a framework's "),
    "no config of that name": (["--config", "missing_config"], "missing_config"),
    "out is not empty": (["--out", "others"], "the output folder others is not empty; name another or add --overwrite"),
    "a unified network without labels": (["--unified", "plain.safetensors"], "on labelled images, and there are none"),
    "a unified network with groups": (
        ["--labels", "labels", "--unified", "trained.safetensors"],
        "holds 4 sub-nets, and one supernet was expected",
    ),
    "labels of one class": (["--labels", "task"], "does not hold a sub-folder of images for each class"),
    "too few labels": (["--labels", "labels", "--neighbours", "24"], "k is 24, but there are 23 training images"),
    "an output folder that holds the codes": (
        ["--codes", "task/bare", "--out", "task", "--overwrite"],
        "--overwrite would delete the codes task/bare with the output folder task; name another",
    ),
    "codes without their network": (["--codes", "task/bare"], "bare was made without the network of its features"),
}
"""What is wrong with a command, and what the sentence says."""


@pytest.mark.parametrize("fault", WRONG)
def test_what_cannot_be_routed_is_said_and_nothing_is_written(fault, trained, drawn, tmp_path, capsys, monkeypatch):
    more, message = WRONG[fault]
    monkeypatch.chdir(tmp_path)
    random_supernet_file(tmp_path / "plain.safetensors")
    shutil.copytree(trained.codes, "task/bare")
    (tmp_path / "task" / "bare" / "network.safetensors").unlink()
    if fault in ("other codes", "out is not empty"):
        from data_plugin import cluster_store

        cluster_store(trained.codes.parent / "store", out="others", levels=2, children=2, random=True)
    if fault in ("too few labels", "a unified network with groups"):
        striped(tmp_path / "labels")
        (tmp_path / "trained.safetensors").symlink_to(trained.supernet)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "cat.jpg").write_bytes(b"")
    images = drawn(red=2)
    before = sorted(tmp_path.rglob("*"))
    assert main(arguments(trained, "out", "--images", images, *more)) == 2
    assert re.fullmatch(f"error: [^\n]*{message}[^\n]*\n", capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_to_route_for_is_refused(trained, tmp_path, capsys):
    assert main(arguments(trained, tmp_path / "out")) == 2
    assert "nothing says what to route for; expected a config, or a folder of images" in capsys.readouterr().err


def test_several_processes_are_refused(trained, drawn, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="routing is the work of one process; do it without torchrun"):
        route(trained, drawn(red=2), tmp_path / "out")


def test_a_folder_is_replaced_where_that_is_asked_for(trained, drawn, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.txt").write_text("old")
    found = route(trained, drawn(red=4), tmp_path / "out", overwrite=True)
    assert {path.name for path in found.out.iterdir()} == {
        "backbone", "route.html", "route.json", "supernet.safetensors",
    }  # fmt: skip
