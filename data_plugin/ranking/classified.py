"""Networks of a supernet fine-tuned alike to classify images, without a framework."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_plugin.frameworks.finetuned import Finetuned, Training
from data_plugin.frameworks.framework import MAIN_METRIC
from data_plugin.frameworks.run import METRICS
from data_plugin.ranking.run import Comparison, train_each
from data_plugin.utils.errors import UserError
from data_plugin.utils.extras import require_installed
from data_plugin.utils.files import write_whole
from data_plugin.utils.workers import spare_cores


@dataclass(frozen=True)
class LabelledImages:
    """What classifiers are fine-tuned and measured on.

    Args:
        train: folder with a sub-folder of images for each class.
        val: the same for measuring accuracy.
        part: the part of every class of ``train`` whose labels are used, above 0 and up to 1.
        protocol: what is trained, as ``data-evaluate`` calls it: networks whole ("semisup"; DATA, table 4), or a linear
            classifier on frozen features ("linear"; figure 3), which needs all labels.

    Raises:
        UserError: if a linear classifier shall use a part of the labels.
    """

    train: Path
    val: Path
    part: float = 1.0
    protocol: Literal["semisup", "linear"] = "semisup"

    def __post_init__(self) -> None:
        if self.protocol == "linear" and self.part != 1:
            raise UserError(
                f"a linear classifier uses all labels, and {self.part:g} of them were asked for; leave it out"
            )

    def to_json(self) -> Mapping[str, str | float]:
        """JSON values."""
        return {"train": str(self.train), "val": str(self.val), "part": self.part, "protocol": self.protocol}


def finetune_classifiers(
    supernet: str,
    out: Path,
    trainings: Sequence[Training],
    labelled: LabelledImages,
    *,
    image_size: int | None,
    epochs: int,
    resume: bool = False,
    done: Callable[[Finetuned], None] = lambda finetuned: None,
) -> Comparison:
    """Train networks, or classifiers on top of them, as ``data-evaluate semisup`` or ``linear`` does.

    Args:
        supernet: the supernet's file, or "shipped" for the one that comes with the package.
        out: output folder: a folder for each training, and ``comparison.json``.
        trainings: what is trained, from the supernet's weights.
        labelled: the images.
        image_size: height and width of a network's input; None takes the pre-training's.
        epochs: length of every training, at least 1.
        resume: go on with what an earlier call left in ``out``.
        done: called with every training that is done, an earlier call's too.

    Raises:
        UserError: if anything that was given does not fit, such as an ``out`` of another comparison.
    """
    require_installed(("lightning", "torchmetrics", "torchvision"), extra="pretrain")
    from data_plugin.evaluation.classification import CHECKPOINT, LINEAR, SEMISUP
    from data_plugin.evaluation.run import open_evaluation

    archs = dict.fromkeys(str(training.arch) for training in trainings)
    evaluation, settings = open_evaluation(
        supernet, list(archs), labelled.train, labelled.val, image_size=image_size, workers=spare_cores()
    )
    recipe = dataclasses.replace(LINEAR if labelled.protocol == "linear" else SEMISUP, epochs=epochs)
    settings |= {"labelled": labelled.to_json(), "recipe": json.loads(json.dumps(dataclasses.asdict(recipe)))}
    del settings["seed"]  # every training has its own

    def train(training: Training, folder: Path) -> None:
        one = dataclasses.replace(evaluation, archs=[training.arch], seed=training.seed)
        if labelled.protocol == "linear":
            accuracy = one.linear(recipe, folder, resume=(folder / CHECKPOINT).is_file())[training.arch]
        else:
            accuracy = one.semisup(recipe, labelled.part, folder, resume=True)[training.arch]
        metrics = {name: 100 * value for name, value in accuracy._asdict().items()}
        write_whole(folder / METRICS, lambda path: path.write_text(json.dumps(metrics, indent=1) + "\n"))

    return train_each(out, settings, MAIN_METRIC["classification"], trainings, train, resume, done)
