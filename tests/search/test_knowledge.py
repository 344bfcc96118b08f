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
from data_plugin.search.knowledge import FEWEST, IMAGES, Knowledge, effective_rank, knowledge_of, passes
from data_plugin.search.options import SearchOptions
from data_plugin.search.report.words import knowledge_text
from data_plugin.search.run import plan_search, run_search
from data_plugin.search.strategies.sample import Sample
from data_plugin.space.budget import Budget
from data_plugin.supernet.checkpoint import load_supernet

LEARNT = Knowledge(128, 12.5, (4.04, 6.0, 8.0))
NOT_LEARNT = Knowledge(128, 11.5, (4.04, 6.0, 8.0))


class Drawn(ImageSource):
    """Images of a folder, normalised as ImageNet's."""

    def __init__(self, folder):
        self.images = open_images(folder)
        super().__init__(self.images.names)

    def __getitem__(self, index):
        form = InputFormat.imagenet()
        pixels = (np.asarray(self.images.read(index)) - np.array(form.mean)) / np.array(form.std)
        return LoadedImage(torch.from_numpy(pixels).permute(2, 0, 1).float(), pixels.shape[:2])


@pytest.fixture
def small(monkeypatch):
    """Lets networks see images of a few pixels."""
    monkeypatch.setattr("data_plugin.search.knowledge.PIXELS", 32)


@pytest.mark.slow
def test_the_shipped_supernet_knows_more_than_random_weights(tmp_path):
    draw_voc(tmp_path / "VOCdevkit", train=FEWEST, test=1, size=(96, 128), seed=0)
    drawn = draw_batches(Drawn(tmp_path / "VOCdevkit" / "VOC2007" / "JPEGImages"), FEWEST, 8, seed=0)
    known = knowledge_of(load_supernet("shipped").key, drawn)
    assert known.images == FEWEST
    assert known.suffices


def test_untrained_supernets_know_no_more(small):
    batches = draw_batches(RandomImages([(40, 40)] * FEWEST), None, 8, seed=0)
    found = [knowledge_of(random_supernet(seed=seed).key, batches) for seed in range(1, 4)]
    assert not any(known.suffices for known in found)
    assert len({known.random for known in found}) == 1


def test_the_effective_rank_is_the_number_of_directions_that_count_alike():
    generator = torch.Generator().manual_seed(0)
    for count in (1, 3, 8):
        directions = torch.linalg.qr(torch.randn(20, 20, generator=generator)).Q[:count]
        sides = torch.cat([torch.eye(count), -torch.eye(count)])
        assert effective_rank(5 + 0.3 * sides @ directions) == pytest.approx(count, rel=1e-5)


def test_it_is_the_exponential_of_the_entropy_of_the_covariances_eigenvalues():
    values = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 2, 3, 4, 5, 6.0])
    eigenvalues = np.linalg.eigvalsh(np.cov(values.numpy().T))
    shares = eigenvalues / eigenvalues.sum()
    assert effective_rank(values) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)


def test_padding_is_not_looked_at(small):
    class Padded(RandomImages):
        def __getitem__(self, index):
            image = super().__getitem__(index)
            pixels = torch.full((3, 64, 64), 1e6)
            pixels[:, : image.size[0], : image.size[1]] = image.pixels
            return LoadedImage(pixels, image.size)

    sizes, key = [(40, 30)] * 16 + [(20, 50)] * 16, random_supernet().key
    padded, plain = (knowledge_of(key, draw_batches(kind(sizes), None, 4, seed=0)) for kind in (Padded, RandomImages))
    assert padded == plain


def test_the_same_seed_finds_the_same(small):
    key, batches = random_supernet().key, random_batches(*[[(40, 40)] * 4] * 8)
    one, same, other = (knowledge_of(key, batches, seed) for seed in (0, 0, 1))
    assert one == same
    assert one != other


def test_no_more_images_are_read_than_are_looked_at(small):
    class Counted(RandomImages):
        read = 0

        def __getitem__(self, index):
            self.read += 1
            return super().__getitem__(index)

    source = Counted([(8, 8)] * (IMAGES + 40))
    batches, done = draw_batches(source, None, 8, seed=0), []
    assert knowledge_of(random_supernet().key, batches, progress=done.append).images == IMAGES
    assert sum(done) == passes(batches)
    assert source.read <= IMAGES + 8


def test_a_few_images_say_nothing():
    assert knowledge_of(random_supernet().key, random_batches([(40, 40)] * (FEWEST - 1))) is None
    assert "not checked" in knowledge_text(None)


def test_the_text_is_loud_where_little_is_known():
    said = "its features of 128 images differ in 12.5 directions, those of random weights in 4.0 to 8.0"
    assert knowledge_text(LEARNT) == said
    assert knowledge_text(NOT_LEARNT).startswith("KNOWS NO MORE OF THESE IMAGES THAN RANDOM WEIGHTS: its features of")


@pytest.mark.filterwarnings("ignore:256 images were asked for")
def test_a_search_says_it_before_and_after(config, supernet_file, tmp_path, small):
    config.source = RandomImages([(40, 40)] * FEWEST)
    options = SearchOptions(
        "any",
        supernet=supernet_file,
        out=tmp_path / "out",
        budgets=[Budget.group("0-1")],
        strategy=Sample(3),
        device="cpu",
    )
    assert "teacher   KNOWS NO MORE" in str(plan_search(options))
    found = run_search(options)
    assert "its teacher: KNOWS NO MORE" in str(found)
    assert "teacher KNOWS NO MORE" in (tmp_path / "out" / "report.html").read_text()
    stored = json.loads((tmp_path / "out" / "search.json").read_text())["knowledge"]
    assert Knowledge.from_json(stored) == found.report.knowledge
    assert not found.report.knowledge.suffices
