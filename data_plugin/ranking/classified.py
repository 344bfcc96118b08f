"""Networks of a supernet fine-tuned alike to classify images, without a framework."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_plugin.frameworks.finetuned import Finetuned, Training
from data_plugin.frameworks.framework import MAIN_METRIC
from data_plugin.frameworks.run import METRICS
from data_plugin.ranking.run import Comparison, train_each
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
    """

    train: Path
    val: Path
    part: float = 1.0

    def to_json(self) -> Mapping[str, str | float]:
        """JSON values."""
        return {"train": str(self.train), "val": str(self.val), "part": self.part}


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
    """Fine-tune networks whole with a classifier on top, as ``data-evaluate semisup`` does (DATA, table 4).

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
    from data_plugin.evaluation.classification import SEMISUP
    from data_plugin.evaluation.run import open_evaluation

    archs = dict.fromkeys(str(training.arch) for training in trainings)
    evaluation, settings = open_evaluation(
        supernet, list(archs), labelled.train, labelled.val, image_size=image_size, workers=spare_cores()
    )
    recipe = dataclasses.replace(SEMISUP, epochs=epochs)
    settings |= {"labelled": labelled.to_json(), "recipe": json.loads(json.dumps(dataclasses.asdict(recipe)))}
    del settings["seed"]  # every training has its own

    def train(training: Training, folder: Path) -> None:
        one = dataclasses.replace(evaluation, archs=[training.arch], seed=training.seed)
        accuracy = one.semisup(recipe, labelled.part, folder, resume=True)[training.arch]
        metrics = {name: 100 * value for name, value in accuracy._asdict().items()}
        write_whole(folder / METRICS, lambda path: path.write_text(json.dumps(metrics, indent=1) + "\n"))

    return train_each(out, settings, MAIN_METRIC["classification"], trainings, train, resume, done)
