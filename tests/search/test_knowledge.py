"""What a teacher knows of images: shipped weights and random ones on drawn photographs, and how a search says it."""

import json

import numpy as np
import pytest
import torch
from samples import RandomImages, random_batches, random_supernet

from data_plugin.images.batch import ImageSource, LoadedImage, draw_batches
from data_plugin.images.drawn_voc import draw_voc
from data_plugin.images.input_format import InputFormat
from data_plugin.images.open import open_images
from data_plugin.search.knowledge import FEWEST, IMAGES, Knowledge, apart, crops, knowledge_of
from data_plugin.search.report.words import knowledge_text
from data_plugin.search.run import SearchOptions, plan_search, run_search
from data_plugin.search.strategies.sample import Sample
from data_plugin.supernet.checkpoint import load_supernet

LEARNT = Knowledge(128, 0.9, (0.6, 0.62, 0.64))
NOT_LEARNT = Knowledge(128, 0.65, (0.6, 0.62, 0.64))


class Drawn(ImageSource):
    """Images of a folder, normalised as ImageNet's."""

    def __init__(self, folder):
        self.images = open_images(folder)
        super().__init__(self.images.names)

    def __getitem__(self, index):
        form = InputFormat.imagenet()
        pixels = (np.asarray(self.images.read(index)) - np.array(form.mean)) / np.array(form.std)
        return LoadedImage(torch.from_numpy(pixels).permute(2, 0, 1).float(), pixels.shape[:2])


@pytest.mark.slow
def test_the_shipped_supernet_knows_more_than_random_weights_and_an_untrained_one_does_not(tmp_path):
    draw_voc(tmp_path / "VOCdevkit", train=48, test=1, size=(96, 128), seed=0)
    drawn = draw_batches(Drawn(tmp_path / "VOCdevkit" / "VOC2007" / "JPEGImages"), 48, 8, seed=0)
    shipped = load_supernet("shipped")
    known = knowledge_of(shipped.key, drawn)
    untrained = knowledge_of(random_supernet(shipped.info.space, seed=7).key, drawn)
    assert known.images == untrained.images == 48
    assert known.random == untrained.random
    assert known.teacher > max(known.random)
    assert known.suffices
    assert not untrained.suffices


def test_being_apart_is_counted_as_by_hand():
    first, second = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    one, other = first - first.mean(0), second - second.mean(0)
    for i, found in enumerate(apart(first, second).tolist()):
        alike = [float(torch.cosine_similarity(one[i], other[j], dim=0)) for j in range(9)]
        assert found == pytest.approx(sum(each < alike[i] for j, each in enumerate(alike) if j != i) / 8)


def test_features_that_know_the_image_make_no_mistake_and_unrelated_ones_guess():
    first, other = torch.randn(2, 200, 64, generator=torch.Generator().manual_seed(0))
    assert apart(first, first + 0.01 * other).mean() == 1
    assert apart(first, other).mean() == pytest.approx(0.5, abs=0.05)


def test_no_padding_gets_into_a_crop():
    class Padded(RandomImages):
        def __getitem__(self, index):
            image = super().__getitem__(index)
            pixels = torch.full((3, 64, 64), 1e6)
            pixels[:, : image.size[0], : image.size[1]] = image.pixels
            return LoadedImage(pixels, image.size)

    sizes = [(40, 30)] * 8 + [(20, 50)] * 8
    padded, plain = (crops(draw_batches(kind(sizes), None, 4, seed=0), 0) for kind in (Padded, RandomImages))
    assert all(map(torch.equal, padded, plain))


def test_the_same_seed_finds_the_same():
    key, batches = random_supernet().key, random_batches(*[[(40, 40)] * 4] * 5)
    one, same, other = (knowledge_of(key, batches, seed) for seed in (0, 0, 1))
    assert one == same
    assert one != other


def test_no_more_images_are_read_than_are_looked_at():
    class Counted(RandomImages):
        read = 0

        def __getitem__(self, index):
            self.read += 1
            return super().__getitem__(index)

    source = Counted([(8, 8)] * (IMAGES + 40))
    first, second = crops(draw_batches(source, None, 8, seed=0), 0)
    assert len(first) == len(second) == IMAGES
    assert source.read <= IMAGES + 8


def test_a_few_images_say_nothing():
    assert knowledge_of(random_supernet().key, random_batches([(40, 40)] * (FEWEST - 1))) is None
    assert "not checked" in knowledge_text(None)


def test_the_text_is_loud_where_little_is_known():
    said = "told 128 images apart by crops: 90 % of comparisons right, random weights 60 to 64"
    assert knowledge_text(LEARNT) == said
    assert knowledge_text(NOT_LEARNT).startswith("KNOWS LITTLE MORE OF THESE IMAGES THAN RANDOM WEIGHTS (told 128")


@pytest.mark.filterwarnings("ignore:256 images were asked for")
def test_a_search_says_it_before_and_after(config, supernet_file, tmp_path):
    config.source = RandomImages([(40, 40)] * FEWEST)
    options = SearchOptions("any", supernet=supernet_file, out=tmp_path / "out", strategy=Sample(3), device="cpu")
    assert "teacher   KNOWS LITTLE MORE" in str(plan_search(options))
    found = run_search(options)
    assert "its teacher: KNOWS LITTLE MORE" in str(found)
    assert "teacher KNOWS LITTLE MORE" in (tmp_path / "out" / "report.html").read_text()
    stored = json.loads((tmp_path / "out" / "search.json").read_text())["knowledge"]
    assert Knowledge.from_json(stored) == found.report.knowledge
    assert not found.report.knowledge.suffices
