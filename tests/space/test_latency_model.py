import numpy as np
import pytest
from samples import SPACE

from data_plugin import Arch, SearchSpace
from data_plugin.space import cost
from data_plugin.space.blocks import block_counts, blocks_of
from data_plugin.space.latency_model import fit_latency, networks_to_measure

MICRO = SearchSpace.micro()


def rows(archs: list[Arch]) -> np.ndarray:
    return np.array([arch.row for arch in archs])


def truth(generator: np.random.Generator, space: SearchSpace) -> np.ndarray:
    """Seconds of every network where blocks of as many multiply-accumulates differ by up to a half."""
    blocks = blocks_of(space, (64, 96))
    costs = np.array([1e-4 + 1e-9 * block.macs for block in blocks]) * generator.uniform(1, 1.5, len(blocks))
    return block_counts(blocks, space.table) @ costs


@pytest.mark.parametrize("space", [MICRO, SearchSpace.mini()])
def test_few_networks_tell_the_latency_of_all(space):
    seconds = truth(np.random.default_rng(0), space)
    measured = rows(networks_to_measure(space))
    index = {tuple(row): i for i, row in enumerate(space.table.tolist())}
    known = np.array([seconds[index[tuple(row)]] for row in measured.tolist()])
    model = fit_latency(blocks_of(space, (64, 96)), measured, known)
    off = np.abs(model.latency(space.table) / seconds - 1)
    assert len(known) < 0.02 * len(space)
    assert off.max() < 0.1
    assert np.median(off) < 0.01
    assert (model.seconds >= 0).all()


def test_a_device_on_which_multiply_accumulates_are_all_is_known_exactly():
    table = rows(networks_to_measure(MICRO, 20))
    blocks = blocks_of(MICRO, (64, 96))
    model = fit_latency(blocks, table, 1e-9 * cost.flops(table, (64, 96)))
    np.testing.assert_allclose(model.latency(MICRO.table), 1e-9 * cost.flops(MICRO.table, (64, 96)), rtol=1e-6)


@pytest.mark.parametrize(("space", "count"), [(MICRO, 3), (MICRO, 60), (SPACE, 10_000), (SearchSpace.data(), 60)])
def test_every_block_is_in_a_network_that_is_measured(space, count):
    archs = networks_to_measure(space, count, seed=1)
    assert len(set(archs)) == len(archs) >= min(count, len(space))
    assert all(arch in space for arch in archs)
    assert block_counts(blocks_of(space, (8, 8)), rows(archs)).any(0).all()
    assert networks_to_measure(space, count, seed=1) == archs != networks_to_measure(space, count, seed=2)
