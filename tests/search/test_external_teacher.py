"""A search whose teacher is a network from elsewhere."""

import numpy as np
import pytest
import torch
from samples import SPACE, TEACHER, random_batches, random_supernet
from torch import nn
from torch.nn import functional as F

from data_plugin import UserError
from data_plugin.backbones.extract import extract
from data_plugin.images.input_format import InputFormat
from data_plugin.pretrain.teacher import TeacherInput
from data_plugin.search.external_teacher import ExternalTeacher, on_grid, open_external_teacher
from data_plugin.search.searcher import Searcher
from data_plugin.supernet.checkpoint import SupernetInfo

IMAGENET = InputFormat.imagenet()
ARCHS = SPACE.sample(6, seed=3)


class Last(nn.Module):
    """C5 of a network."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images)[-1]


class Seen(nn.Module):
    """Gives back what it is shown, and remembers it."""

    def __init__(self):
        super().__init__()
        self.images = []

    def forward(self, images):
        self.images.append(images)
        return images


@pytest.fixture(scope="module")
def supernet():
    return random_supernet()


def by_image(result):
    return result.per_image(range(len(result.archs)))


def external(network, size, mean=IMAGENET.mean, std=IMAGENET.std, saw=IMAGENET):
    return ExternalTeacher("mine", network, TeacherInput(size, mean, std), saw)


def test_the_supernets_own_teacher_from_outside_is_the_same_teacher(supernet):
    data = random_batches([(96, 96)] * 3, [(96, 96)])
    outside = external(Last(extract(supernet.key, SPACE.largest)), 96)
    expected = Searcher(supernet, ["C5"], norm="running").measure(ARCHS, data)
    found = Searcher(supernet, ["C5"], norm="running", teacher=outside).measure(ARCHS, data)
    np.testing.assert_allclose(by_image(found), by_image(expected), rtol=2e-3)
    assert found.ranking(ARCHS) == expected.ranking(ARCHS)


def test_it_sees_images_without_their_padding_and_may_have_any_map(supernet):
    torch.manual_seed(0)
    outside = external(nn.Sequential(nn.Conv2d(3, 7, 9, stride=9), nn.ReLU()), 80)
    sizes = [(64, 96), (96, 64), (70, 50)]
    (padded,) = data = random_batches(sizes)
    for image, (own, (height, width)) in enumerate(zip(outside.maps(padded, torch.device("cpu")), sizes, strict=True)):
        unpadded = padded.images[image : image + 1, :, :height, :width]
        square = F.interpolate(unpadded, (80, 80), mode="bilinear", antialias=True)
        torch.testing.assert_close(own, outside.network(square), rtol=1e-4, atol=1e-4)
    for norm in ("batch", "recalibrated", "running"):
        found = by_image(Searcher(supernet, ["C4", "C5"], norm=norm, teacher=outside).measure(ARCHS, data))
        assert (found > 0).all()
        assert np.isfinite(found).all()


def test_it_is_shown_its_own_normalisation_and_channel_order():
    blue_first = InputFormat("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
    (batch,) = random_batches([(8, 8)])
    seen = Seen()
    external(seen, 8, mean=(1.0, 2.0, 3.0), std=(2.0, 2.0, 2.0), saw=blue_first).maps(batch, torch.device("cpu"))
    pixels = batch.images + torch.tensor(blue_first.mean).view(1, 3, 1, 1)
    expected = (pixels.flip(1) - torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)) / 2
    torch.testing.assert_close(seen.images[0], expected, rtol=1e-4, atol=1e-4)


def test_maps_lie_where_the_students_do():
    one, other = torch.ones(1, 2, 5, 5), torch.full((1, 2, 3, 3), 2.0)
    found = on_grid([one, other], [(4, 2), (3, 3)], (4, 3)).round(decimals=4)
    assert found.shape == (2, 2, 4, 3)
    assert found[0, :, :4, :2].unique().tolist() == [1.0]
    assert found[0, :, :, 2].unique().tolist() == [0.0]
    assert found[1, :, :3, :3].unique().tolist() == [2.0]
    assert found[1, :, 3].unique().tolist() == [0.0]


@pytest.mark.parametrize("taps", [["z"], ["C2", "C5"]])
def test_finer_maps_and_embeddings_are_refused(supernet, taps):
    with pytest.raises(
        UserError, match=f"the tap {taps[0]} cannot be compared with an external teacher.* --taps C4,C5"
    ):
        Searcher(supernet, taps, teacher=external(Seen(), 32))


def test_a_teacher_that_gives_no_numbers_is_refused(supernet):
    broken = external(Last(extract(supernet.key, SPACE.largest)), 64, std=(float("nan"),) * 3)
    with pytest.raises(UserError, match="the teacher gives values that are not finite"):
        Searcher(supernet, ["C5"], teacher=broken).measure(ARCHS, random_batches([(64, 64)]))


def info(**settings):
    training = {"recipe": {"settings": settings}} if settings else {}
    return SupernetInfo(SPACE, "distill" if settings else "mocov2", IMAGENET, training)


TAUGHT = {
    "teacher": TEACHER["teacher"],
    "teacher_weights": "",
    "teacher_size": 48,
    "teacher_mean": [1.0, 2.0, 3.0],
    "teacher_std": [4.0, 5.0, 6.0],
}


def test_the_network_that_taught_the_supernet_is_shown_what_it_was_shown_there():
    found = open_external_teacher(["pre-training"], info(**TAUGHT))
    assert found.name == TEACHER["teacher"]
    assert found.given == TeacherInput(48, [1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    assert found.saw == IMAGENET


def test_an_input_may_be_told():
    words = [TEACHER["teacher"], "size=32", "mean=1,2,3", "std=4,5,6"]
    assert open_external_teacher(words, info()).given == TeacherInput(32, [1.0, 2.0, 3.0], [4.0, 5.0, 6.0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pre-training"], "the supernet was trained with mocov2, without a frozen teacher"),
        (["resnet50"], "the teacher 'resnet50' is not a file; expected timm:NAME"),
        ([TEACHER["teacher"]], "the input of the teacher .* is not known"),
        ([TEACHER["teacher"], "size=32"], "the input of the search's teacher has no mean; expected size, mean and std"),
        ([TEACHER["teacher"], "size=big"], "'size=big' says nothing of the search's teacher; expected size=PIXELS"),
        ([TEACHER["teacher"], "mean=1,2"], "'mean=1,2' says nothing of the search's teacher"),
        ([TEACHER["teacher"], "colour=red"], "'colour=red' says nothing of the search's teacher"),
    ],
)
def test_what_no_teacher_can_be_made_of_is_said(words, message):
    with pytest.raises(UserError, match=message):
        open_external_teacher(words, info())


@pytest.mark.parametrize("size", [(65, 97), (63, 33), (224, 160)])
@pytest.mark.parametrize("options", [{}, {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)}])
def test_the_size_of_a_map_is_known_without_it(supernet, size, options):
    network = supernet.query.with_options(**options)
    maps = network(torch.rand(1, 3, *size), SPACE.smallest)
    assert [network.map_size(size, stage) for stage in range(4)] == [tuple(each.shape[-2:]) for each in maps]
