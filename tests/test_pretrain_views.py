import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data_plugin.pretrain.image_folder import ImageFolder
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
    stream = EpochStream(len(images), total=16, start=start, seed=seed)
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


def test_every_epoch_holds_every_image_once_in_an_order_of_its_own():
    draws = list(EpochStream(count=50, total=120, seed=0))
    epochs = [[draw.image for draw in draws if draw.epoch == epoch] for epoch in range(3)]
    assert [draw.epoch for draw in draws] == [0] * 50 + [1] * 50 + [2] * 20
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(50))
    assert epochs[0] != epochs[1]
    assert len(set(epochs[2])) == 20


@pytest.mark.parametrize("start", [0, 7, 50, 99, 119, 120])
def test_a_stream_can_start_anywhere(start):
    whole = list(EpochStream(count=50, total=120, seed=4))
    assert list(EpochStream(count=50, total=120, start=start, seed=4)) == whole[start:]


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
