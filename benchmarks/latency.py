"""How close is a latency composed of blocks to that of the whole network?

The same random networks are predicted in two ways, in one run: by the sum over blocks that were each timed alone, in a
loop; and by what `data-measure-latency` fits to whole networks, none of which is among those. Blocks and networks are
measured in as many rounds, in turn, and the median over the rounds is taken. The first line is of the sum as it was
before: a single round, with memory in the state in which a young process has it. Printed are the median, the 95th
percentile and the maximum of the relative error over the networks, and how many times smaller that of the fit is;
beside them how far a second measurement of the same networks is from the first.

    python benchmarks/latency.py --space micro

On a machine that does other work too, `--clock cpu` reads the time that the computing thread had, instead of the time
that went by. It is for `--threads 1` on a CPU alone.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from data_plugin.space.blocks import block_counts, blocks_of
from data_plugin.space.latency_model import MEASURED, fit_latency, networks_to_measure
from data_plugin.space.measured_cost import measure_blocks
from data_plugin.space.named_space import read_space
from data_plugin.space.runtimes import RUNTIMES, Clock, _median
from data_plugin.space.whole_cost import whole_costs
from data_plugin.utils.provenance import device_name

CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}


def as_found(module: nn.Module, images: Tensor, clock: Clock) -> float:
    """Median seconds of a call, without anything done to memory before."""
    with torch.inference_mode():
        return _median(lambda: module(images), clock)


def line(name: str, errors: np.ndarray) -> str:
    median, most, worst = np.quantile(np.abs(errors), (0.5, 0.95, 1))
    return f"{name:<28} median {median:6.1%}   95 % {most:6.1%}   max {worst:6.1%}   mean sign {errors.mean():+.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="micro")
    parser.add_argument("--size", type=int, default=224, help="height and width of the image in pixels")
    parser.add_argument("--networks", type=int, default=40, help="networks that are predicted")
    parser.add_argument("--rounds", type=int, default=3, help="at least 2")
    parser.add_argument("--runtime", choices=RUNTIMES, default="torch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    space, device, size = read_space(arguments.space), torch.device("cpu"), (arguments.size, arguments.size)
    measure = partial(RUNTIMES[arguments.runtime], clock=CLOCKS[arguments.clock])
    blocks = blocks_of(space, size)
    archs = networks_to_measure(space, MEASURED + arguments.networks)
    fitted = len(networks_to_measure(space))
    table = np.array([arch.row for arch in archs])
    unseen, known = slice(fitted, None), slice(0, fitted)
    found = partial(as_found, clock=CLOCKS[arguments.clock]) if arguments.runtime == "torch" else measure
    young = block_counts(blocks, table[unseen]) @ measure_blocks(blocks, device, found)
    young = young / whole_costs(archs[unseen], size, device, found) - 1
    alone, whole = [], []
    for _ in range(arguments.rounds):
        alone.append(measure_blocks(blocks, device, measure))
        whole.append(whole_costs(archs, size, device, measure))
    first, seconds = whole[0], np.median(whole, axis=0)
    before = block_counts(blocks, table[unseen]) @ np.median(alone, axis=0) / seconds[unseen] - 1
    model = fit_latency(blocks, table[known], seconds[known])
    now = model.latency(table[unseen]) / seconds[unseen] - 1
    once = fit_latency(blocks, table[known], first[known]).latency(table[unseen]) / seconds[unseen] - 1
    print(
        f"{len(now)} networks of {arguments.space}, {arguments.size} pixels, {1e3 * seconds[unseen].min():.1f} to "
        f"{1e3 * seconds[unseen].max():.1f} ms, {device_name(device)}, {arguments.threads} thread(s), "
        f"{arguments.runtime}, {arguments.clock} time, {arguments.rounds} rounds"
    )
    print(line("blocks alone, as before", young))
    print(line("blocks alone", before))
    print(line(f"fitted to {fitted} whole networks", now))
    print(line("the same, of one round", once))
    print(line("measured again", whole[1][unseen] / first[unseen] - 1))
    for name, errors in (("blocks alone, as before,", young), ("blocks alone", before)):
        times = np.quantile(np.abs(errors), (0.5, 1)) / np.quantile(np.abs(now), (0.5, 1))
        print(f"{name} against the fit: {times[0]:.1f} times in the median, {times[1]:.1f} at most")


if __name__ == "__main__":
    main()
