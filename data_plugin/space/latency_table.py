"""A file of networks' latencies on some device, from which a search elsewhere knows those of a whole space."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_plugin.space.arch import STAGES, Arch
from data_plugin.space.blocks import block_counts, blocks_of
from data_plugin.space.latency_model import LatencyModel, fit_latency
from data_plugin.space.resolution import Resolution
from data_plugin.space.search_space import SearchSpace
from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole

FORMAT = 1
"""Of the file."""

UNIT, SECONDS = "ms", 1e-3
"""Unit of the file's latencies, and what it is in seconds."""


@dataclass(frozen=True)
class LatencyTable:
    """Latencies of whole networks, measured on one device.

    Args:
        space: the space of the networks.
        input_size: height and width of the one image of a call, in pixels.
        resolution: strides and dilations of the networks.
        device: what computed, in the words of its maker.
        runtime: what ran the networks, with its version.
        threads: how many computed on a CPU; None where that means nothing.
        networks: seconds by network, at least one with each block of the space; the model is fitted to these.
        check: seconds by network, of others that the model is held against; may be empty.
        made_by: the version of this package that measured; None for a file that was written by hand.
    """

    space: SearchSpace
    input_size: tuple[int, int]
    resolution: Resolution
    device: str
    runtime: str
    threads: int | None
    networks: Mapping[Arch, float]
    check: Mapping[Arch, float]
    made_by: str | None = None

    @cached_property
    def model(self) -> LatencyModel:
        """The latency of every network of the space."""
        blocks = blocks_of(self.space, self.input_size, self.resolution.strides)
        return fit_latency(blocks, _rows(self.networks), np.array(list(self.networks.values())))

    @cached_property
    def errors(self) -> np.ndarray:
        """How far the model is from each network of the check, relative to its latency, (checked,)."""
        if not self.check:
            return np.zeros(0)
        return self.model.latency(_rows(self.check)) / np.array(list(self.check.values())) - 1

    @property
    def place(self) -> str:
        """Device, runtime, threads and size, in words."""
        threads = "" if self.threads is None else f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.device} with {self.runtime}{threads}, at {self.input_size[0]}x{self.input_size[1]}"

    @property
    def accuracy(self) -> str:
        """How far the model was from the whole networks of the check, in words."""
        if not self.check:
            return "not checked on whole networks"
        off = np.abs(self.errors)
        return f"{np.median(off):.1%} off in the median and {off.max():.1%} at most, on {len(off)} other whole networks"

    def write(self, path: Path) -> None:
        """Write the file."""
        text = json.dumps(self._to_json(), indent=1) + "\n"
        write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def _to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "made_by": self.made_by,
            "device": self.device,
            "runtime": self.runtime,
            "threads": self.threads,
            "input_size": list(self.input_size),
            **self.resolution.options(),
            "space": self.space.to_json(),
            "unit": UNIT,
            "networks": {str(arch): seconds / SECONDS for arch, seconds in self.networks.items()},
            "check": {str(arch): seconds / SECONDS for arch, seconds in self.check.items()},
        }

    @classmethod
    def read(cls, path: Path) -> LatencyTable:
        """The table of a file.

        Raises:
            UserError: if it cannot be read, or holds no table from which all networks' latencies follow.
        """
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"the latency table {path} cannot be read: {error.strerror}") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"the latency table {path} is not JSON: {error}") from error
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise UserError(f"{path} is no latency table of format {FORMAT}; expected what data-measure-latency writes")
        try:
            table = _from_json(value)
        except KeyError as error:
            raise UserError(f"the latency table {path} has no entry {error}; expected one") from error
        except UserError as error:
            raise UserError(f"the latency table {path} is wrong: {error}") from error
        return table

    def require(self, space: SearchSpace, resolution: Resolution, input_size: tuple[int, int] | None) -> None:
        """Check that the table is of the networks that are asked for.

        Args:
            space: the space that is searched.
            resolution: strides and dilations at which its networks run.
            input_size: height and width of the images in pixels; None takes those of the table.

        Raises:
            UserError: if it is not; the message says how to measure one that is.
        """
        if self.space != space:
            raise UserError(
                f"the latency table is of the search space {self.space.to_json()}; expected that of the supernet, "
                f"{space.to_json()}: measure with --space and a .json file that holds it"
            )
        if self.resolution != resolution:
            raise UserError(
                f"the latency table is of networks with {_options(self.resolution)}; expected those of the config: "
                f"measure with {_options(resolution)}"
            )
        if input_size not in (None, self.input_size):
            raise UserError(
                f"the latency table is of images of {self.input_size[0]}x{self.input_size[1]} pixels, and --input-size "
                f"asks for {input_size[0]}x{input_size[1]}; expected the same: measure at that size, or leave it out"
            )


def _from_json(value: Mapping[str, Any]) -> LatencyTable:
    if value["unit"] != UNIT:
        raise UserError(f"its unit is {value['unit']!r}; expected {UNIT!r}")
    space = SearchSpace.from_json(value["space"])
    table = LatencyTable(
        space=space,
        input_size=_size(value["input_size"]),
        resolution=Resolution(
            _four(value["strides"], "strides"),
            _four(value["dilations"], "dilations"),
            value.get("contract_dilation", False) is True,
        ),
        device=str(value["device"]),
        runtime=str(value["runtime"]),
        threads=_threads(value["threads"]),
        networks=_latencies(value["networks"], space),
        check=_latencies(value.get("check", {}), space),
        made_by=value.get("made_by"),
    )
    blocks = blocks_of(space, table.input_size, table.resolution.strides)
    found = block_counts(blocks, _rows(table.networks)).sum(axis=0)
    missing = [blocks[index] for index in np.flatnonzero(found == 0)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"no network in it has {missing[0]}{more}; expected each block of the space in one network at least"
        )
    return table


def _latencies(value: Any, space: SearchSpace) -> dict[Arch, float]:
    """Seconds by network, from milliseconds by its name."""
    if not isinstance(value, dict):
        raise UserError(f"its networks are {value!r}; expected a latency by the name of each network")
    found = {}
    for name, latency in value.items():
        arch = Arch.parse(name)
        if arch not in space:
            raise UserError(f"the network {name} is not in its search space; expected networks of the space alone")
        if isinstance(latency, bool) or not isinstance(latency, int | float) or not 0 < latency < math.inf:
            raise UserError(f"the network {name} takes {latency!r} {UNIT}; expected a finite number above 0")
        found[arch] = latency * SECONDS
    return found


def _size(value: Any) -> tuple[int, int]:
    match value:
        case [int(height), int(width)] if height > 0 and width > 0:
            return height, width
    raise UserError(f"its input size is {value!r}; expected height and width in pixels")


def _threads(value: Any) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise UserError(f"its threads are {value!r}; expected a number of at least 1, or null")
    return value


def _four(value: Any, name: str) -> Any:
    if not isinstance(value, list):
        raise UserError(f"its {name} are {value!r}; expected {STAGES} integers, one a stage")
    return tuple(value)


def _rows(networks: Mapping[Arch, float]) -> np.ndarray:
    return np.array([arch.row for arch in networks], dtype=np.int64).reshape(-1, 1 + 2 * STAGES)


def _options(resolution: Resolution) -> str:
    """A resolution as options of data-measure-latency."""
    strides, dilations = (" ".join(map(str, four)) for four in (resolution.strides, resolution.dilations))
    contract = " --contract-dilation" if resolution.contract_dilation else ""
    return f"--strides {strides} --dilations {dilations}{contract}"
