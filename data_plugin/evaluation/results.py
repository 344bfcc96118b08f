"""What an evaluation leaves behind: a JSON with everything that decides the figures, and the figures as CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_plugin.evaluation.accuracy import Accuracy
from data_plugin.space import cost
from data_plugin.space.arch import Arch
from data_plugin.utils.files import write_whole


def write_results(out: Path, name: str, accuracies: Mapping[Arch, Accuracy], settings: Mapping[str, Any]) -> list[Path]:
    """Write ``name.json`` and ``name.csv``.

    Args:
        out: the folder; made where missing.
        name: the measurement, such as ``knn``.
        accuracies: accuracy per network.
        settings: what decides them, JSON values.

    Returns:
        The files.
    """
    rows = [
        {"arch": str(arch), "flops": cost.flops(arch), "params": cost.params(arch), **accuracy._asdict()}
        for arch, accuracy in accuracies.items()
    ]
    text = json.dumps({"measurement": name, **settings, "results": rows}, indent=1) + "\n"

    def write_csv(path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    files = [out / f"{name}.json", out / f"{name}.csv"]
    write_whole(files[0], lambda path: path.write_text(text))
    write_whole(files[1], write_csv)
    return files
