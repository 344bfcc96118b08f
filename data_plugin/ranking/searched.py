"""Networks of a finished search, fine-tuned with what it was searched with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from data_plugin.frameworks.finetuned import Finetuned, Training
from data_plugin.ranking.classified import LabelledImages, finetune_classifiers
from data_plugin.ranking.run import Comparison, finetune_each
from data_plugin.search.downstream import TORCHVISION
from data_plugin.search.found import Search
from data_plugin.supernet.named_supernet import named_supernet
from data_plugin.utils.errors import UserError
from data_plugin.utils.provenance import file_hash
from data_plugin.utils.ranks import launched_ranks


def finetune_searched(
    search: Search,
    trainings: Sequence[Training],
    folder: str,
    length: int,
    resume: bool,
    done: Callable[[Finetuned], None] = lambda finetuned: None,
    labelled: LabelledImages | None = None,
) -> Comparison:
    """Fine-tune networks of a search's supernet by its config, with its options, data root and classes.

    A search for classification has no config; its networks are fine-tuned by :func:`finetune_classifiers`.

    Args:
        search: a finished search.
        trainings: what is trained.
        folder: where the trainings are, below the search's output folder.
        length: of every training, at least 1: iterations, and epochs of a search for classification.
        resume: go on with what an earlier call of the same length has left.
        done: called with every training that is done.
        labelled: labelled images for a search for classification, which has none; None for the others.

    Raises:
        UserError: if there are several processes, the supernet is not the one that was searched, labelled images are
            missing or too many, or the config cannot be trained, see :func:`finetune_each`; what is finished stays.
    """
    require_one_process()
    report, run = search.report, search.report.run
    supernet = run["supernet"]["path"]
    if file_hash(named_supernet(supernet)) != run["supernet"]["sha256"]:
        raise UserError(f"{supernet} is no longer the supernet that {search.out} has searched; put that one back")
    if report.framework == TORCHVISION:
        if labelled is None:
            raise UserError(f"{search.out} was searched for classification; give labelled images, --train and --val")
        size = run["asked_for"]["image_size"]
        return finetune_classifiers(
            supernet,
            search.out / folder,
            trainings,
            labelled,
            image_size=size,
            epochs=length,
            resume=resume,
            done=done,
        )
    if labelled is not None:
        raise UserError(f"{search.out} was searched by a config, which names its data; leave out --train and --val")
    return finetune_each(
        supernet,
        report.config,
        search.out / folder,
        trainings,
        framework=report.framework,
        data_root=None if report.data_root is None else Path(report.data_root),
        classes=run["classes"],
        options=run["options"],
        iterations=length,
        resume=resume,
        done=done,
    )


def require_one_process() -> None:
    """Check that there are no several processes, in which one training after the other would have to begin anew.

    Raises:
        UserError: if there are.
    """
    if launched_ranks() != (1, 1):
        raise UserError(
            "networks of a search are fine-tuned by one process; do it without torchrun (after a search that had no "
            "--finetune, with --resume and --finetune)"
        )
