from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data_plugin.images.image_files import Images
from data_plugin.images.image_folder import ImageFolder
from data_plugin.pretrain.views import Draw, EpochStream, Views, collate

pytest.importorskip("lightly", reason="pre-training needs lightly")
from lightly.transforms.moco_transform import MoCoV2Transform


@pytest.fixture
def images(tmp_path):
    for index in range(10):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return ImageFolder(tmp_path)


def batches(images, seed=0, workers=0, start=0):
    views = Views(images, MoCoV2Transform(16), seed)
    stream = EpochStream(images, total=16, batch=4, start=start, seed=seed)
    return list(DataLoader(views, batch_size=4, sampler=stream, num_workers=workers, collate_fn=collate))


def equal(ours, theirs):
    pairs = zip(ours, theirs, strict=True)
    return all(torch.equal(a, b) for one, two in pairs for a, b in zip(one.views, two.views, strict=True))


def test_views_depend_on_the_seed_alone(images):
    torch.manual_seed(1)
    first = batches(images)
    np.random.seed(2)
    assert equal(first, batches(images, workers=2))
    assert not equal(first, batches(images, seed=1))
    assert [tuple(view.shape) for view in first[0].views] == [(4, 3, 16, 16)] * 2
    assert not torch.equal(*first[0].views)


def test_a_stopped_stream_goes_on_with_the_next_image(images):
    assert equal(batches(images)[2:], batches(images, start=8))


def test_making_views_leaves_the_global_generators_alone(images):
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    Views(images, MoCoV2Transform(16), 0)[Draw(0, 0)]
    assert (torch.rand(1), np.random.rand()) == expected


def test_the_same_image_looks_different_in_another_epoch(images):
    views = Views(images, MoCoV2Transform(16), 0)
    assert not torch.equal(views[Draw(0, 5)][0][0], views[Draw(1, 5)][0][0])


class Numbers(Images):
    def __init__(self, count):
        super().__init__(Path(), [str(index) for index in range(count)], [0] * count)

    def file(self, index):
        raise AssertionError("the order of images does not depend on where they are")

    def read_bytes(self, index):
        raise AssertionError("the order of images does not depend on what they show")


def test_every_epoch_holds_every_image_once_in_an_order_of_its_own():
    draws = list(EpochStream(Numbers(50), total=120, batch=4, seed=0))
    epochs = [[draw.image for draw in draws if draw.epoch == epoch] for epoch in range(3)]
    assert [draw.epoch for draw in draws] == [0] * 50 + [1] * 50 + [2] * 20
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(50))
    assert epochs[0] != epochs[1]
    assert len(set(epochs[2])) == 20


@pytest.mark.parametrize("start", [0, 4, 48, 52, 116, 120])
def test_a_stream_can_start_at_any_batch(start):
    whole = list(EpochStream(Numbers(50), total=120, batch=4, seed=4))
    assert list(EpochStream(Numbers(50), total=120, batch=4, start=start, seed=4)) == whole[start:]


def test_processes_share_every_batch():
    whole = list(EpochStream(Numbers(50), total=120, batch=6, seed=4))
    parts = [list(EpochStream(Numbers(50), total=120, batch=6, seed=4, rank=rank, ranks=3)) for rank in range(3)]
    shared = [draw for first in range(0, 40, 2) for part in parts for draw in part[first : first + 2]]
    assert shared == whole
    assert len(EpochStream(Numbers(50), total=120, batch=6, ranks=3)) == 40


def test_the_next_readable_image_stands_in_for_an_unreadable_one(images):
    for name in ("8.png", "9.png"):
        (images.root / name).write_bytes(b"broken")
    views = Views(images, lambda image: [torch.from_numpy(np.asarray(image).copy())], 0)
    (found,), unreadable = views[Draw(0, 8)]
    (expected,), none = views[Draw(0, 0)]
    assert torch.equal(found, expected)
    assert (unreadable, none) == (["8.png", "9.png"], [])


def test_without_one_readable_image_there_are_no_views(images):
    for name in images.names:
        (images.root / name).write_bytes(b"broken")
    views = Views(images, MoCoV2Transform(16), 0)
    batch = collate([views[Draw(0, 3)], views[Draw(0, 4)]])
    assert batch.views == []
    assert set(batch.unreadable) == set(images.names)
