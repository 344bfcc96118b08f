"""Which classes a data set in VOC's layout has."""

import re
import shutil
import warnings
from collections import Counter
from pathlib import Path

import pytest
from samples import drawn_names, with_classes

from data_plugin.images.voc import CLASSES, VOCSplit, check_voc
from data_plugin.images.voc_classes import find_classes
from data_plugin.utils.errors import UserError

OWN = ("raccoon", "kangaroo", "emu")


def splits(root: Path) -> list[VOCSplit]:
    return [VOCSplit.named(root / "VOC2007", name) for name in ("trainval", "test")]


@pytest.fixture
def own(drawn_voc: Path, tmp_path: Path) -> Path:
    return with_classes(drawn_voc, tmp_path / "own", OWN)


def first_annotation(root: Path) -> Path:
    return sorted((root / "VOC2007" / "Annotations").glob("*.xml"))[0]


def test_vocs_twenty_stay_where_some_of_them_are_annotated(drawn_voc: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_classes(splits(drawn_voc)) == CLASSES


def test_other_classes_are_sorted_and_counted(own: Path):
    with pytest.warns(UserWarning, match="classes of their own") as caught:
        assert find_classes(splits(own)) == ("emu", "kangaroo", "raccoon")
    objects = Counter(name for split in ("trainval", "test") for names in drawn_names(own, split) for name in names)
    said = dict(re.findall(r"(emu|kangaroo|raccoon) (\d+)", str(caught[0].message)))
    assert said == {name: str(count) for name, count in objects.items()}


def test_one_class_that_is_not_vocs_makes_all_of_them_the_data_sets_own(drawn_voc: Path, tmp_path: Path):
    root = with_classes(drawn_voc, tmp_path / "mixed", ("car", "wombat"))
    with pytest.warns(UserWarning, match="classes of their own"):
        assert find_classes(splits(root)) == ("car", "wombat")


def test_images_that_are_only_evaluated_count_too(own: Path):
    name = (own / "VOC2007/ImageSets/Main/test.txt").read_text().split()[0]
    annotation = own / "VOC2007" / "Annotations" / f"{name}.xml"
    annotation.write_text(re.sub(r"<name>.*</name>", "<name>wombat</name>", annotation.read_text(), count=1))
    with pytest.warns(UserWarning, match="classes of their own"):
        assert find_classes(splits(own)) == ("emu", "kangaroo", "raccoon", "wombat")


def test_named_classes_keep_their_order(own: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_classes(splits(own), OWN) == OWN
        assert find_classes(splits(own), ("wombat", *OWN)) == ("wombat", *OWN)


def test_what_named_classes_leave_out_is_counted(own: Path):
    count = sum(names.count("emu") for split in ("trainval", "test") for names in drawn_names(own, split))
    with pytest.warns(UserWarning, match=rf"not among raccoon, kangaroo are left out: emu {count} objects, the first"):
        assert find_classes(splits(own), ("raccoon", "kangaroo")) == ("raccoon", "kangaroo")


def test_a_slip_in_a_name_is_refused(own: Path):
    message = r"\.xml has an object of class 'raccoon', which is none of the classes racoon, kangaroo, emu, while "
    expected = r"no annotation has a 'racoon'; expected .* \(emu, kangaroo, raccoon\)"
    with pytest.raises(UserError, match=message + expected) as caught:
        find_classes(splits(own), ("racoon", "kangaroo", "emu"))
    (named,) = re.findall(r"^(\S+\.xml) ", str(caught.value))
    assert "<name>raccoon</name>" in Path(named).read_text()


@pytest.mark.parametrize(
    ("named", "message"), [((), "an empty name"), (("emu", ""), "an empty name"), (("emu", "emu"), "'emu' twice")]
)
def test_classes_are_names_each_once(own: Path, named, message: str):
    with pytest.raises(UserError, match=message):
        find_classes(splits(own), named)


@pytest.mark.parametrize("without", ["files", "objects"])
def test_without_labels_vocs_twenty_stay_and_a_warning_says_so(own: Path, without: str):
    for annotation in (own / "VOC2007" / "Annotations").glob("*.xml"):
        annotation.write_text("<annotation/>")
    if without == "files":
        shutil.rmtree(own / "VOC2007" / "Annotations")
    with pytest.warns(UserWarning, match="Annotations names a class, so the detector keeps VOC's twenty"):
        assert find_classes(splits(own)) == CLASSES
    assert find_classes(splits(own), OWN) == OWN


def test_a_data_set_that_is_not_there_has_nothing_to_say(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_classes(splits(tmp_path)) == CLASSES


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("raccoon 1 2 3 4", "is missing or not an annotation in XML"),
        ("<?xml version='1.0' encoding='none'?><annotation/>", "is missing or not an annotation in XML"),
        ("<annotation><object><bndbox/></object></annotation>", "has an object without a name"),
        ("<annotation><object><name> </name></object></annotation>", "has an object without a name"),
        (
            "<annotation><object><name>emu\n</name></object></annotation>",
            r"has an object of class 'emu\\n'; expected <name>emu</name>, without spaces or line breaks around it",
        ),
    ],
)
def test_annotations_that_name_no_class_are_named(own: Path, contents: str, message: str):
    path = first_annotation(own)
    path.write_text(contents)
    for read in (find_classes, lambda every: check_voc(every[0])):
        with pytest.raises(UserError, match=rf"{path.name} {message}") as caught:
            read(splits(own))
        assert "\n" not in str(caught.value)


def test_checking_a_split_counts_its_objects(own: Path):
    train, test = splits(own)
    assert check_voc(train) == Counter(name for names in drawn_names(own, "trainval") for name in names)
    train.photograph(train.names[2]).unlink()
    with pytest.raises(UserError, match=rf"{train.names[2]}.jpg is missing, but trainval.txt lists it"):
        check_voc(train)
    test.annotation(test.names[0]).unlink()
    with pytest.raises(UserError, match=rf"{test.names[0]}.xml is missing"):
        check_voc(test)
