"""Measure the networks of a search space on this device, for a search by latency anywhere."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_plugin.tools.exit_codes import user_errors_exit_2
from data_plugin.tools.number_arguments import size, whole

TOLERATED = 0.1
"""How far a composed latency may be off without a remark, relative to the whole network's."""


@user_errors_exit_2
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit code."""
    parser = argparse.ArgumentParser(prog="measure_latency.py", description=__doc__)
    parser.add_argument(
        "--space", required=True, help="data, mini, micro, or a .json file: the search space of the supernet"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="table.json", help="the table that is written")
    parser.add_argument(
        "--input-size", required=True, type=size, metavar="N|HxW", help="pixels of the one image of a call"
    )
    parser.add_argument(
        "--runtime",
        choices=("torch", "onnxruntime", "tensorrt", "tensorrt-fp16"),
        default="torch",
        help="what runs the networks: torch on a CPU or GPU, onnxruntime on a CPU, tensorrt on a GPU where "
        "onnxruntime has it (default: %(default)s); a table for any other is written by hand, see docs/search.md",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument("--threads", type=_count, help="threads on a CPU (default: PyTorch's, one a core)")
    parser.add_argument(
        "--strides", type=_count, nargs=4, default=(1, 2, 2, 2), help="of the four stages (default: 1 2 2 2)"
    )
    parser.add_argument(
        "--dilations", type=_count, nargs=4, default=(1, 1, 1, 1), help="of the four stages (default: 1 1 1 1)"
    )
    parser.add_argument(
        "--contract-dilation", action="store_true", help="halve the dilation of every stage's first block"
    )
    parser.add_argument(
        "--check",
        type=_whole,
        default=10,
        help="more networks, to hold the model against (default: %(default)s)",
    )
    parser.add_argument("--seed", type=_whole, default=0, help="seed of the networks (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    arguments = parser.parse_args(argv)

    import torch

    from data_plugin.space.measure_latency import measure_latency
    from data_plugin.space.named_space import read_space
    from data_plugin.space.resolution import Resolution
    from data_plugin.utils.errors import UserError
    from data_plugin.utils.ranks import pick_device

    if arguments.out.exists() and not arguments.overwrite:
        raise UserError(f"{arguments.out} is there already; name another --out, or add --overwrite")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    table = measure_latency(
        read_space(arguments.space),
        arguments.input_size,
        pick_device(arguments.device),
        arguments.runtime,
        Resolution(tuple(arguments.strides), tuple(arguments.dilations), arguments.contract_dilation),
        arguments.check,
        arguments.seed,
    )
    table.write(arguments.out)
    latencies = [1e3 * seconds for seconds in table.networks.values()]
    print(f"{len(latencies)} networks of {min(latencies):.3g} to {max(latencies):.3g} ms on {table.place}")
    print(f"latency composed of blocks: {table.accuracy}")
    if len(table.errors) and abs(table.errors).max() > TOLERATED:
        print(f"a network is off by more than {TOLERATED:.0%}: measure again while the device does nothing else")
    print(f"table: {arguments.out}")
    return 0


def _count(text: str) -> int:
    return whole(text, 1, "a number of at least 1")


def _whole(text: str) -> int:
    return whole(text, 0, "a number of at least 0")


if __name__ == "__main__":
    sys.exit(main())
