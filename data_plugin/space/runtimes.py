"""What runs a network, and how long one call takes there."""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

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

TENSORRT = "TensorrtExecutionProvider"
"""What ONNX Runtime calls TensorRT."""

BY_HAND = "or time the networks yourself and write the table, as docs/search.md shows under 'A table by hand'"
"""What a user can do in any case."""

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
    if images.device.type != "cpu":
        raise UserError(f"onnxruntime is measured on the CPU alone, not on {images.device}; expected --device cpu")
    return _session_latency(module, images, "CPUExecutionProvider", {}, clock)


def tensorrt_latency(
    module: nn.Module, images: Tensor, clock: Clock = time.perf_counter, *, fp16: bool = False
) -> float:
    """Median time in seconds of one call in TensorRT, which ONNX Runtime builds the engine with and runs.

    Args:
        module: in evaluation mode.
        images: what it is called with.
        clock: what time is read from.
        fp16: let TensorRT compute in half precision where that is faster.

    Raises:
        UserError: if the input is not on a CUDA device, or TensorRT does not take the whole network.
    """
    if images.device.type != "cuda":
        raise UserError(f"TensorRT is measured on a GPU, not on {images.device}; expected --device cuda")
    options = {"device_id": images.device.index or 0, "trt_fp16_enable": fp16}
    return _session_latency(module, images, TENSORRT, options, clock)


RUNTIMES: dict[str, Runtime] = {
    "torch": torch_latency,
    "onnxruntime": onnxruntime_latency,
    "tensorrt": tensorrt_latency,
    "tensorrt-fp16": partial(tensorrt_latency, fp16=True),
}
"""The runtimes that can be measured, by name."""


def find_runtime(name: str) -> Runtime:
    """A runtime by its name.

    Raises:
        UserError: if it cannot be measured here; the message says what to do instead.
    """
    if name not in RUNTIMES:
        raise UserError(f"{name!r} is not measured by this tool; expected {', '.join(RUNTIMES)}; {BY_HAND}")
    if name != "torch":
        require_installed(("onnx", "onnxruntime"), extra="onnxruntime")
    if name.startswith("tensorrt"):
        import onnxruntime

        if TENSORRT not in onnxruntime.get_available_providers():
            raise UserError(
                f"onnxruntime {onnxruntime.__version__} knows no TensorRT here; install onnxruntime-gpu in its place, "
                f"and TensorRT; {BY_HAND}"
            )
    return RUNTIMES[name]


def versioned(name: str) -> str:
    """A runtime's name with its version, of ONNX Runtime where that drives it."""
    package = "torch" if name == "torch" else "onnxruntime"
    version = importlib.import_module(package).__version__
    return f"{name} {version}" if name == package else f"{name} by {package} {version}"


def _session_latency(
    module: nn.Module, images: Tensor, provider: str, options: Mapping[str, Any], clock: Clock
) -> float:
    """Median seconds of a call in ONNX Runtime, all of it by one provider, input and output staying on its device."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    if provider != "CPUExecutionProvider":
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    refused = f"{provider} does not run the network here"
    try:
        # Else it prints why the provider fails, and tries others.
        providers = {"providers": [(provider, dict(options))], "enable_fallback": 0}
        session = onnxruntime.InferenceSession(_onnx(module, images), settings, **providers)
    except Exception as error:  # each provider has errors of its own
        raise UserError(f"{refused} ({str(error).splitlines()[0]}); {BY_HAND}") from error
    # Where a provider cannot be loaded, ONNX Runtime takes the CPU and goes on.
    if session.get_providers()[0] != provider:
        raise UserError(f"{refused}, {session.get_providers()[0]} would; {BY_HAND}")
    device = images.device.type, images.device.index or 0
    binding = session.io_binding()
    image = onnxruntime.OrtValue.ortvalue_from_numpy(images.cpu().numpy(), *device)
    binding.bind_ortvalue_input(session.get_inputs()[0].name, image)
    binding.bind_output(session.get_outputs()[0].name, *device)

    def call() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return _median(call, clock)


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
