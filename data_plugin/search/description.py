"""What a plan and a report say of how a search was run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from data_plugin import __version__
from data_plugin.search.prepared import PreparedSearch
from data_plugin.supernet.named_supernet import named_supernet
from data_plugin.utils.provenance import device_name, file_hash, installed_versions


def latency_source(prepared: PreparedSearch) -> str | None:
    """Where latencies are from, in words; None where no budget bounds them."""
    if prepared.latency_table is not None:
        return f"of {prepared.latency_table.place}, by {os.fspath(prepared.options.latency_table or '')}"
    if not any("latency" in budget.quantities for budget in prepared.budgets):
        return None
    height, width = prepared.measured.input_size
    return f"of this device, {device_name(prepared.measured.device)} with torch, at {height}x{width}"


def description(prepared: PreparedSearch) -> dict[str, Any]:
    """What was run beside what the report says in fields of its own, as JSON values."""
    options = prepared.options
    packages = [*prepared.downstream.distributions, "torch"]
    return {
        "options": list(options.options),
        "classes": None if options.classes is None else list(options.classes),
        "supernet": supernet_description(prepared),
        "strategy": options.strategy.to_json(),
        "resolution": prepared.downstream.resolution.options(),
        "max_memory": options.max_memory,
        "search_teacher": search_teacher(prepared),
        "latency_table": _latency_description(prepared),
        "image_source": None if options.images is None else os.fspath(options.images),
        "image_source_sha256": prepared.downstream.fingerprint,
        "images_asked_for": options.image_count,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "versions": {"data_plugin": __version__, **installed_versions(packages)},
    }


def search_teacher(prepared: PreparedSearch) -> list[str]:
    """The network in the teacher's place, and what was told of it; empty where it is the supernet's largest."""
    external = prepared.searcher.teacher
    return [] if external is None else [external.name, *prepared.options.search_teacher[1:]]


def _latency_description(prepared: PreparedSearch) -> dict[str, Any] | None:
    """What a report says of the table of latencies."""
    path, table = prepared.options.latency_table, prepared.latency_table
    if path is None or table is None:
        return None
    return {
        "path": os.fspath(path),
        "sha256": file_hash(Path(path)),
        "place": table.place,
        "device": table.device,
        "runtime": table.runtime,
        "threads": table.threads,
        "input_size": list(table.input_size),
        "accuracy": table.accuracy,
    }


def supernet_description(prepared: PreparedSearch) -> dict[str, Any]:
    """What a report says of the supernet."""
    path, info = prepared.options.supernet, prepared.supernet.info
    return {
        "path": os.fspath(path),
        "sha256": file_hash(named_supernet(path)),
        "method": info.method,
        "saw_labels": info.saw_labels,
        "space": info.space.to_json(),
    }
