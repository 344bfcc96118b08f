"""What runs a network, and how long one call takes there."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from data_plugin.utils.errors import UserError
from data_plugin.utils.extras import require_installed

Clock = Callable[[], float]
"""Gives seconds from some beginning."""

Runtime = Callable[..., float]
"""Takes a module, its input and a :data:`Clock`; gives the median seconds of a call."""

ENOUGH = 0.1
"""Seconds after which a call has been timed often enough, if it was timed :data:`LEAST` times."""
LEAST, MOST = 5, 20

LARGEST_CHUNK = 31 * 2**20
"""Bytes, just below the largest chunk from which glibc learns that chunks of a size come back."""


def torch_latency(module: nn.Module, images: Tensor, clock: Clock = time.perf_counter) -> float:
    """Median time in seconds of one call in PyTorch, with ``torch.get_num_threads()`` threads.

    Args:
        module: in evaluation mode.
        images: what it is called with.
        clock: what time is read from.
    """
    if images.device.type == "cpu":
        # In a young process glibc gives freed maps back to the system, and every call pays for getting them again, half
        # as long as it computes or not at all, by chance. A large chunk that is freed settles it, as loading a
        # photograph does.
        torch.empty(LARGEST_CHUNK, dtype=torch.uint8)

    def call() -> None:
        module(images)
        if images.is_cuda:
            torch.cuda.synchronize(images.device)

    with torch.inference_mode():
        return _median(call, clock)


def onnxruntime_latency(module: nn.Module, images: Tensor, clock: Clock = time.perf_counter) -> float:
    """Median time in seconds of one call in ONNX Runtime on the CPU, with ``torch.get_num_threads()`` threads.

    Args are those of :func:`torch_latency`.

    Raises:
        UserError: if the input is not on the CPU.
    """
    import onnxruntime

    if images.device.type != "cpu":
        raise UserError(f"onnxruntime is measured on the CPU alone, not on {images.device}; expected --device cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(_onnx(module, images), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images.numpy()}
    return _median(lambda: session.run(None, feed), clock)


RUNTIMES: dict[str, Runtime] = {"torch": torch_latency, "onnxruntime": onnxruntime_latency}
"""The runtimes that can be measured here, by the name of their package."""


def find_runtime(name: str) -> Runtime:
    """A runtime by its name.

    Raises:
        UserError: if it cannot be measured here; the message says what to do instead.
    """
    if name not in RUNTIMES:
        raise UserError(
            f"{name} is not measured by this tool; expected {' or '.join(RUNTIMES)}, or time the networks in {name} "
            "and write the table yourself, as docs/search.md shows under 'Latency of another device'"
        )
    if name == "onnxruntime":
        require_installed(("onnx", "onnxruntime"), extra="onnxruntime")
    return RUNTIMES[name]


def _median(call: Callable[[], object], clock: Clock) -> float:
    call()  # the first one prepares what later ones find
    times: list[float] = []
    while len(times) < LEAST or (len(times) < MOST and sum(times) < ENOUGH):
        start = clock()
        call()
        times.append(clock() - start)
    return float(np.median(times))


def _onnx(module: nn.Module, images: Tensor) -> bytes:
    """The module for inputs of this size."""
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        # The exporter by tracing is called old, but the new one takes seconds a network.
        warnings.simplefilter("ignore")
        path = Path(folder) / "network.onnx"
        torch.onnx.export(module, (images,), path, dynamo=False)
        return path.read_bytes()
