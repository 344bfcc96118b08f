"""The supernet that comes with the package goes by its name, wherever a supernet's file is asked for."""

import re
from pathlib import Path

import pytest
import torch
from samples import SPACE, random_supernet, random_supernet_file

from data_plugin import SearchSpace, UserError
from data_plugin.backbones import DATAResNet
from data_plugin.supernet import named_supernet
from data_plugin.supernet.checkpoint import load_supernet
from data_plugin.supernet.foreign_weights import read_backbone
from data_plugin.supernet.named_supernet import SHIPPED, shipped_supernet
from data_plugin.tools.convert_checkpoint import main

CARD = named_supernet.FOLDER / "README.md"
COMES_WITH_THE_PACKAGE = named_supernet.FOLDER / named_supernet.WEIGHTS


def test_the_name_stands_for_the_shipped_file(shipped):
    assert shipped_supernet() == named_supernet.named_supernet("shipped") == shipped
    assert load_supernet("shipped").info == load_supernet(shipped).info
    found = read_backbone("shipped")
    assert (found.file, found.arch, found.saw_labels) == ("shipped", SPACE.largest, True)


def test_a_file_of_that_name_has_to_be_called_a_path(shipped, tmp_path, monkeypatch):
    other = random_supernet_file(tmp_path / "shipped.safetensors", SearchSpace.micro())
    other.rename(tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    assert load_supernet("shipped").info.space == SPACE
    for path in ("./shipped", Path("shipped"), tmp_path / "shipped"):
        assert named_supernet.named_supernet(path).resolve() == tmp_path / "shipped"


def test_a_tool_takes_a_network_out_of_the_shipped_supernet(shipped, tmp_path):
    assert main(["export", "--supernet", "shipped", "--arch", "smallest", "--out", str(tmp_path / "network")]) == 0
    network = DATAResNet.from_pretrained(tmp_path / "network")
    assert network.arch == SPACE.smallest
    expected = random_supernet().key.conv1.weight[: SPACE.smallest.stem].half().float()
    assert torch.equal(network.conv1.weight, expected)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (Path.unlink, "is missing, the supernet that comes with the package; install data_plugin again"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x01"),
            "is damaged: its weights are not those that its hash was made of; install data_plugin again",
        ),
    ],
    ids=["missing", "changed"],
)
def test_a_shipped_file_that_is_missing_or_was_changed_ends_with_one_sentence(
    shipped, tmp_path, capsys, spoil, sentence
):
    spoil(shipped)
    for read in (load_supernet, read_backbone):
        with pytest.raises(UserError, match=re.escape(f"{shipped} {sentence}")):
            read("shipped")
    assert main(["export", "--supernet", "shipped", "--arch", "largest", "--out", str(tmp_path / "network")]) == 2
    assert capsys.readouterr().err == f"error: {shipped} {sentence}\n"
    assert not (tmp_path / "network").exists()


def test_the_card_has_no_gaps():
    text = CARD.read_text()
    assert not re.search(r"TODO|TBD|XXX|\?\?|\.\.\.", text)
    for heading in ("What it is", "Data", "Recipe", "What its teacher saw", "Accuracy", "Limits", "Licence"):
        assert re.search(rf"^## .*{heading}", text, re.MULTILINE), heading


@pytest.fixture
def real() -> Path:
    """The supernet that comes with the package."""
    if not COMES_WITH_THE_PACKAGE.is_file():
        pytest.skip(f"{COMES_WITH_THE_PACKAGE.relative_to(COMES_WITH_THE_PACKAGE.parents[3])} is not in this checkout")
    return COMES_WITH_THE_PACKAGE


def test_what_comes_with_the_package_is_small_and_what_its_card_says(real):
    assert real.stat().st_size <= 12e6
    info = load_supernet(SHIPPED).info
    assert (info.space, info.method, info.saw_labels) == (SearchSpace.mini(), "distill", True)


def test_the_networks_that_come_with_the_package_tell_images_apart(real):
    supernet = load_supernet(SHIPPED)
    images = torch.randn(4, 3, 64, 64)
    space = supernet.info.space
    for arch in (space.smallest, space.largest):
        with torch.no_grad():
            features = supernet.query(images, arch)[-1].mean((2, 3))
        assert features.isfinite().all()
        assert features.std(dim=0).max() > 0
