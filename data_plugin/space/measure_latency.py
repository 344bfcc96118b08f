"""Measuring a table of latencies on the device at hand, for a search elsewhere."""

from __future__ import annotations

import numpy as np
import torch

from data_plugin import __version__
from data_plugin.space.arch import Arch
from data_plugin.space.latency_model import networks_to_measure
from data_plugin.space.latency_table import LatencyTable
from data_plugin.space.resolution import Resolution
from data_plugin.space.runtimes import find_runtime, versioned
from data_plugin.space.search_space import SearchSpace
from data_plugin.space.whole_cost import whole_costs
from data_plugin.utils.progress import progress_over
from data_plugin.utils.provenance import device_name

ROUNDS = 3
"""How often all networks are measured; the median counts, so that one disturbance spoils no network."""

CHECKED = 10
"""Networks that the model is held against, where nothing else is said."""


def measure_latency(
    space: SearchSpace,
    input_size: tuple[int, int],
    device: torch.device,
    runtime: str = "torch",
    resolution: Resolution | None = None,
    check: int = CHECKED,
    seed: int = 0,
) -> LatencyTable:
    """Measure whole networks of a space, on a CPU with ``torch.get_num_threads()`` threads, and show the progress.

    Args:
        space: the search space.
        input_size: height and width of the one image of a call, in pixels.
        device: where to measure.
        runtime: a key of :data:`~data_plugin.space.runtimes.RUNTIMES`.
        resolution: strides and dilations of the networks; None takes those of pre-training.
        check: how many more networks are measured to hold the model against, at least 0.
        seed: the same seed gives the same networks.

    Raises:
        UserError: if the runtime cannot be measured here.
    """
    measure = find_runtime(runtime)
    resolution = resolution or Resolution()
    fitted = networks_to_measure(space, seed=seed)
    archs = [*fitted, *_others(space, fitted, check, seed)]
    options = resolution.options()
    with progress_over(ROUNDS * len(archs), "measurements") as advance:
        rounds = [whole_costs(archs, input_size, device, measure, advance, **options) for _ in range(ROUNDS)]
    found = dict(zip(archs, np.median(rounds, axis=0).tolist(), strict=True))
    return LatencyTable(
        space=space,
        input_size=input_size,
        resolution=resolution,
        device=device_name(device),
        runtime=versioned(runtime),
        threads=torch.get_num_threads() if device.type == "cpu" else None,
        networks={arch: found[arch] for arch in fitted},
        check={arch: found[arch] for arch in archs[len(fitted) :]},
        made_by=f"data_plugin {__version__}",
    )


def _others(space: SearchSpace, fitted: list[Arch], count: int, seed: int) -> list[Arch]:
    """Networks that the model is not fitted to, fewer where the space has no more."""
    more = networks_to_measure(space, min(len(space), len(fitted) + count), seed)
    return [arch for arch in more if arch not in set(fitted)][:count]
