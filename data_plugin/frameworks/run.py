"""One fine-tuning run from a config to its metrics: what the fine-tuning tools run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_plugin.frameworks.framework import Task
from data_plugin.frameworks.framework_config import LAST_CHECKPOINT
from data_plugin.frameworks.registry import find_framework
from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole
from data_plugin.utils.ranks import rank

METRICS = "metrics.json"
"""The file in the output folder that holds what a finished run came to."""


def run_finetune(
    config: str,
    out: Path,
    task: Task,
    *,
    framework: str | None = None,
    data_root: Path | None = None,
    classes: Sequence[str] | None = None,
    options: Sequence[str] = (),
    resume: bool = False,
    eval_only: bool = False,
    weights: Path | None = None,
) -> Mapping[str, float]:
    """Fine-tune or evaluate with a framework, and write the metrics to ``metrics.json``.

    Args:
        config: a config that a search wrote, a config name, or a path.
        out: folder of checkpoints, logs and metrics.
        task: what the config's model is for.
        framework: the framework; None picks one, see :func:`find_framework`.
        data_root: folder of the data sets; None leaves the config's.
        classes: the classes of objects; None leaves them to the config and the annotations.
        options: ``KEY=VALUE`` changes of the config.
        resume: go on from the last checkpoint in ``out``.
        eval_only: evaluate without training.
        weights: detector checkpoint to evaluate; None takes the last in ``out``.

    Returns:
        The framework's metrics in percent.

    Raises:
        UserError: if anything that the user gave does not fit, such as an ``out`` that holds another run.
    """
    started = (out / LAST_CHECKPOINT).is_file()
    if started and not resume and not eval_only:
        raise UserError(f"{out} holds a run already; add --resume to go on with it, or name another folder")
    if resume and not started:
        raise UserError(f"there is no checkpoint in {out} to resume from; start without --resume")
    if weights is not None and not eval_only:
        raise UserError(f"--weights {weights} is only evaluated; add --eval-only, or set the weights in the config")
    if weights is not None and not weights.is_file():
        raise UserError(f"the weights {weights} are not a file; expected a detector checkpoint")
    if eval_only and weights is None and not started:
        raise UserError(f"there is no checkpoint in {out} to evaluate; give one with --weights")
    opened = find_framework(framework, config, task).open(config, options, data_root, classes)
    metrics = opened.finetune(out, resume=resume, eval_only=eval_only, weights=weights)
    if rank() == 0:
        text = json.dumps(dict(metrics), indent=1) + "\n"
        write_whole(out / METRICS, lambda path: path.write_text(text))
    return metrics
