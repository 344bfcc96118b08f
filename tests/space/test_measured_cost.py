import numpy as np
import pytest
import torch
from samples import SPACE
from torch import nn

from data_plugin.space import cost
from data_plugin.space.blocks import block_counts, blocks_of
from data_plugin.space.measured_cost import activations_of, compose_memory, measure_blocks
from data_plugin.space.runtimes import onnxruntime_latency, torch_latency
from data_plugin.space.whole_cost import whole_cost

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "options", [{}, {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4), "contract_dilation": True}]
)
def test_blocks_compose_to_the_whole_network(options):
    """With multiply-accumulates in place of seconds, the composition has to equal the closed form of every network."""

    def count(module: nn.Module, images: torch.Tensor) -> float:
        total = 0

        def add(conv: nn.Conv2d, inputs: tuple, output: torch.Tensor) -> None:
            nonlocal total
            total += output.shape[2] * output.shape[3] * conv.weight.numel()

        hooks = [m.register_forward_hook(add) for m in module.modules() if isinstance(m, nn.Conv2d)]
        module(images)
        for hook in hooks:
            hook.remove()
        return total

    strides = options.pop("strides", cost.STRIDES)
    blocks = blocks_of(SPACE, (65, 97), strides)
    counted = measure_blocks(blocks, CPU, count, **options)
    assert counted.tolist() == [block.macs for block in blocks]
    np.testing.assert_array_equal(
        block_counts(blocks, SPACE.table) @ counted, cost.flops(SPACE.table, (65, 97), strides)
    )
    options["strides"] = strides
    assert whole_cost(SPACE.largest, (65, 97), CPU, count, **options) == cost.flops(SPACE.largest, (65, 97), strides)


@pytest.mark.parametrize("latency_of", [torch_latency, onnxruntime_latency])
def test_latency_is_the_median_of_the_calls_by_the_given_clock(latency_of):
    if latency_of is onnxruntime_latency:
        pytest.importorskip("onnxruntime")
    ticks = iter([0, 1, 10, 13, 20, 22, 30, 39, 40, 44])
    assert latency_of(nn.Conv2d(3, 2, 1).eval(), torch.randn(1, 3, 8, 8), lambda: next(ticks)) == 3.0


def test_activations_are_what_is_alive_at_once():
    first, second = nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 2, 1, bias=False)
    images = torch.randn(1, 3, 32, 32)
    map_bytes = 4 * 32 * 32
    with torch.inference_mode():
        assert activations_of(first, images) == pytest.approx((3 + 8) * map_bytes, rel=0.05)
        assert activations_of(nn.Sequential(first, second), images) >= (3 + 8 + 2) * map_bytes


def test_composed_memory_is_close_to_that_of_the_whole_network():
    blocks = blocks_of(SPACE, (128, 128))
    activations = measure_blocks(blocks, CPU, activations_of)
    for arch in (SPACE.smallest, SPACE.largest):
        row = np.array([arch.row])
        (composed,) = compose_memory(blocks, activations, row) - 4 * cost.params(row)
        whole = whole_cost(arch, (128, 128), CPU, activations_of)
        assert composed == pytest.approx(whole, rel=0.35)
        assert composed <= whole * 1.05
