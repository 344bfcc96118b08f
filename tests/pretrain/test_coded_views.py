"""Which images of which codes are in which batch."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from data_plugin import UserError
from data_plugin.images.image_files import Images
from data_plugin.pretrain.coded_views import CodeStream
from data_plugin.pretrain.phases import Phases
from data_plugin.pretrain.views import Batch, Clean, EpochStream

SIZES = {(0, 0): 7, (0, 1): 9, (1, 0): 12, (1, 1): 8}
STEP = 8


class Unread(Images):
    """Images that nobody reads."""

    def __init__(self, count: int) -> None:
        super().__init__(Path(), [str(index) for index in range(count)], [0] * count)

    def read_bytes(self, index):
        pytest.fail("an image was read")

    def file(self, index):
        pytest.fail("an image was read")


@pytest.fixture
def codes():
    """Of 38 images, two of which have none."""
    digits = [code for code, count in SIZES.items() for _ in range(count)] + [(-1, -1)] * 2
    return np.random.default_rng(0).permutation(np.array(digits))


def stream(codes, starts=(0, 0, 0), steps=60, batch=STEP, parts=2, **options):
    phases = Phases(2, 2, starts)
    return list(CodeStream(Unread(len(codes)), codes, phases, steps, STEP, batch, parts, **options))


def test_a_phase_begins_with_its_share_of_the_steps():
    phases = Phases.of(4, 4, 1_000, None)
    assert phases.starts == (0, 200, 400, 600, 800)
    assert [phases.at(step) for step in (0, 199, 200, 999)] == [0, 0, 1, 4]
    assert [phases.sub_nets(phase) for phase in range(5)] == [1, 4, 16, 64, 256]
    assert [phases.opened_at(step) for step in (0, 200, 201, 800)] == [[], [0], [], [3]]
    assert Phases.of(2, 4, 100, [2, 1, 1]).starts == (0, 50, 75)
    with pytest.raises(UserError, match=r"phases are \[1\], and codes of 2 levels have 3 phases"):
        Phases.of(2, 4, 100, [1])


def test_the_path_of_an_image_has_the_digits_that_count_and_then_zeros(codes):
    phases = Phases(2, 2, (0, 1, 2))
    for phase in range(3):
        for code, number in zip(codes.tolist(), phases.numbers(codes, phase).tolist(), strict=True):
            if code[0] < 0 and phase:
                assert number == -1
            else:
                assert phases.path(number, phase) == (*code[:phase], *[0] * (2 - phase))


def test_every_part_of_a_batch_is_of_one_code_which_is_its_images(codes):
    draws = stream(codes)
    for part in range(0, len(draws), 4):
        (path,) = {each.path for each in draws[part : part + 4]}
        assert all(tuple(codes[each.draw.image]) == path for each in draws[part : part + 4])


def test_images_are_seen_equally_often_and_look_different_each_time(codes):
    draws = [each.draw for each in stream(codes, steps=45)]  # ten epochs of the 36 that have a code
    seen = Counter(draw.image for draw in draws)
    assert set(seen) == set(np.flatnonzero(codes[:, 0] >= 0).tolist())
    assert max(seen.values()) - min(seen.values()) <= 2
    assert len(set(draws)) == len(draws)


def test_no_draw_of_a_phase_comes_again_in_a_later_one(codes):
    draws = [each.draw for each in stream(codes, starts=(0, 7, 20), steps=45)]
    assert len(set(draws)) == len(draws)


def test_codes_take_turns(codes):
    draws = stream(codes, starts=(0, 0, 60))
    paths = [draws[part].path for part in range(0, len(draws), 4)]
    # Two codes of 16 and 20 images: hardly ever the same in both parts of a batch.
    assert sum(one == two for one, two in zip(paths[::2], paths[1::2], strict=True)) < len(paths) / 2 * 0.35
    assert Counter(paths)[1, 0] / len(paths) == pytest.approx(20 / 36, abs=0.03)


def test_phase_0_has_the_draws_of_a_training_without_codes(codes):
    plain = list(EpochStream(Unread(len(codes)), 20 * STEP, STEP, seed=3))
    coded = stream(codes, starts=(0, 20, 20), steps=20, seed=3)
    assert [each.draw for each in coded] == plain
    assert {each.path for each in coded} == {(0, 0)}


@pytest.mark.parametrize("step", [3, 7, 8, 19, 20, 44])
def test_a_stopped_stream_goes_on_where_it_was(codes, step):
    whole = stream(codes, starts=(0, 8, 20), steps=45)
    assert stream(codes, starts=(0, 8, 20), steps=45, start=STEP * step) == whole[STEP * step :]


def test_each_process_has_an_equal_share_of_every_part(codes):
    whole = stream(codes, starts=(0, 8, 20), steps=30)
    ranks = [stream(codes, starts=(0, 8, 20), steps=30, rank=rank, ranks=2) for rank in (0, 1)]
    for part in range(0, len(whole), 4):
        half = part // 2
        assert ranks[0][half : half + 2] + ranks[1][half : half + 2] == whole[part : part + 4]


def test_a_batch_in_parts_has_the_draws_of_the_whole(codes):
    assert stream(codes, batch=STEP // 2, parts=1) == stream(codes)


def test_the_images_of_a_batch_come_apart_by_sub_net():
    views = [torch.arange(5.0), 10 + torch.arange(5.0)]
    clean = Clean(torch.arange(5), 20 + torch.arange(5), [torch.arange(5)])
    batch = Batch(views, ["a"], clean, [(0, 1), (1, 1), (0, 1), (0, 0), (1, 1)])
    parts = list(batch.parts())
    assert [route for _, route in parts] == [((0, 1),), ((1, 1),), ((0, 0),)]
    assert [part.views[1].tolist() for part, _ in parts] == [[10, 12], [11, 14], [13]]
    assert [part.clean.indices.tolist() for part, _ in parts] == [[20, 22], [21, 24], [23]]
    ((whole, route),) = batch._replace(paths=None).parts()
    assert route == ()
    assert whole.views is views
