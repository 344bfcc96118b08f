"""The frameworks that the project works with, and how one of them is chosen."""

from __future__ import annotations

from data_plugin.frameworks.config_names import ConfigNames
from data_plugin.frameworks.framework import Framework, Task
from data_plugin.utils.errors import UserError

DETECTRON2 = Framework(
    name="detectron2",
    title="detectron2",
    task="detection",
    extra="detectron2",
    distributions=("detectron2",),
    configs=ConfigNames("detectron2", ending=".yaml", zoo="model_zoo/configs"),
    input_keys="INPUT.FORMAT, MODEL.PIXEL_MEAN and MODEL.PIXEL_STD",
    seed_key="SEED",
    adapter="data_plugin.backbones.detectron2.config:Detectron2Config",
    backbone_places=("backbone.", "backbone.bottom_up.", "roi_heads.res5."),
)

MMDET = Framework(
    name="mmdet",
    title="MMDetection",
    task="detection",
    extra="openmmlab",
    distributions=("onedl-mmdetection", "onedl-mmcv", "onedl-mmengine"),
    configs=ConfigNames("mmdet", ending=".py", zoo=".mim/configs"),
    input_keys="model.data_preprocessor",
    seed_key="randomness.seed",
    adapter="data_plugin.backbones.mmdet.config:MMDetConfig",
    backbone_places=("backbone.", "detector.backbone.", "roi_head.shared_head."),
)

MMSEG = Framework(
    name="mmseg",
    title="MMSegmentation",
    task="segmentation",
    extra="openmmlab",
    distributions=("onedl-mmsegmentation", "onedl-mmcv", "onedl-mmengine"),
    configs=ConfigNames("mmseg", ending=".py", zoo=".mim/configs"),
    input_keys="model.data_preprocessor",
    seed_key="randomness.seed",
    adapter="data_plugin.backbones.mmseg.config:MMSegConfig",
    backbone_places=("backbone.",),
)

FRAMEWORKS = (DETECTRON2, MMDET, MMSEG)
"""All of them, in the order in which an installed one of a task is taken."""


def frameworks_of(task: Task | None) -> tuple[Framework, ...]:
    """The frameworks for a task, in the order in which an installed one is taken; all for None."""
    return tuple(framework for framework in FRAMEWORKS if task in (None, framework.task))


def find_framework(name: str | None, config: str, task: Task | None) -> Framework:
    """Choose a framework for a config.

    Args:
        name: the framework; None takes the one that the ending of ``config`` tells, else the one that has a config of
            that name, of ours or in its model zoo, else the first; of several the first that is installed.
        config: config name or path.
        task: what it is for; None takes any.

    Raises:
        UserError: if it is unknown or not installed; the message says what to install.
    """
    choices = frameworks_of(task)
    names = ", ".join(choice.name for choice in choices)
    if name is None:
        by_ending = [choice for choice in choices if config.endswith(choice.configs.ending)]
        by_name = [choice for choice in choices if choice.configs.ours(config) or choice.configs.in_zoo(config)]
        installed = [choice for choice in by_ending or by_name or choices if choice.is_installed]
        if not (installed or by_ending):
            raise UserError(f"none of {names} is installed; install one, for example with: {choices[-1].install}")
        found = (installed or by_ending)[0]
    else:
        named = [choice for choice in choices if choice.name == name]
        if not named:
            raise UserError(f"{name!r} is not a framework here; expected one of {names}")
        found = named[0]
    found.require_installed()
    return found
