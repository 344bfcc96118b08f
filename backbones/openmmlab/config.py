"""What the configs of MMDetection and MMSegmentation share as :class:`FrameworkConfig`."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmengine.config import Config, ConfigDict
from mmengine.registry import Registry
from torch import nn

from data_plugin.backbones.openmmlab.config_file import (
    LOADERS,
    beside_config,
    leaves,
    merge_options,
    read_config,
    save_config,
)
from data_plugin.backbones.openmmlab.images import (
    Indexed,
    OfDataSets,
    OfNoDataSet,
    OpenMMLabImages,
    inference_pipeline,
)
from data_plugin.backbones.openmmlab.iterations import set_iterations
from data_plugin.backbones.openmmlab.swap import detector, replace_resnet, set_arch, stages_read
from data_plugin.backbones.openmmlab.training import train_or_evaluate
from data_plugin.frameworks.framework_config import DEMO, FrameworkConfig
from data_plugin.images.batch import ImageSource
from data_plugin.images.image_files import Images
from data_plugin.images.input_format import InputFormat
from data_plugin.space.arch import STAGE_TAPS, STAGES, Arch
from data_plugin.space.cost import STRIDES
from data_plugin.space.resolution import Resolution
from data_plugin.utils.errors import UserError


class OpenMMLabConfig(FrameworkConfig):
    """A config of one of OpenMMLab's frameworks, which differ in their data and in what they evaluate.

    Args:
        path: the ``.py`` file.
        options: ``KEY=VALUE`` strings as OpenMMLab's ``--cfg-options`` takes them; keys must exist.
        data_root: the folder that holds the data sets, instead of the config's.
        classes: the classes of objects, where the framework's data sets let them be named.

    Attributes:
        cfg: MMEngine's object, with ``DATAResNet`` in the ResNet's place and the data root in its data sets.

    Raises:
        UserError: see :class:`FrameworkConfig`.
    """

    title: ClassVar[str]
    """What the framework's authors call it."""

    scope: ClassVar[str]
    """The framework's package, which is its registries' scope and the name of our adapter, too."""

    models: ClassVar[Registry]
    """The framework's models."""

    networks: ClassVar[tuple[type[nn.Module], ...]]
    """Modules of ours that load the weights of a searched network."""

    preprocessor: ClassVar[str]
    """The data preprocessor of models that name none."""

    def __init__(
        self,
        path: Path,
        options: Sequence[str] = (),
        data_root: Path | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.cfg: Config = read_config(path, self.title)
        merge_options(self.cfg, options)
        replace_resnet(self.cfg, self.models)
        self._missing: UserError | None = None
        before = copy.deepcopy(self.cfg)
        try:
            self._find_data(data_root)
        except UserError as error:
            if data_root is not None:
                raise
            self.cfg, self._missing = before, UserError(f"{error}; or {DEMO}")
        self._find_classes(classes)

    @property
    def input_format(self) -> InputFormat:
        """Channel order and normalisation that the config's data preprocessor feeds its model.

        OpenMMLab reads images as BGR; ``mean`` and ``std`` are applied after the channels are swapped.
        """
        preprocessor = self.cfg.model.get("data_preprocessor") or {}
        preprocessor = preprocessor.get("data_preprocessor", preprocessor)  # of each branch of a semi-supervised one
        swapped = preprocessor.get("bgr_to_rgb", False) or preprocessor.get("rgb_to_bgr", False)
        mean, std = preprocessor.get("mean") or (0.0, 0.0, 0.0), preprocessor.get("std") or (1.0, 1.0, 1.0)
        return InputFormat("RGB" if swapped else "BGR", tuple(mean), tuple(std))

    @property
    def taps(self) -> tuple[str, ...]:
        """The feature maps that the config's heads, or its neck, read; see :func:`stages_read`."""
        return tuple(STAGE_TAPS[stage] for stage in stages_read(detector(self.cfg)))

    @property
    def resolution(self) -> Resolution:
        """Strides and dilations of the four stages, one that is a shared head included; one not built runs plainly."""
        model = detector(self.cfg)
        head = (model.get("roi_head") or {}).get("shared_head") or {}
        built = model.backbone.get("num_stages", STAGES)

        def four(key: str, plain: tuple[int, int, int, int]) -> Any:
            own = tuple(model.backbone.get(key, plain))[:built]
            return (*own, *plain[len(own) :])

        return Resolution(
            strides=four("strides", (*STRIDES[:3], head.get("stride", STRIDES[3]))),
            dilations=four("dilations", (1, 1, 1, head.get("dilation", 1))),
            contract_dilation=model.backbone.get("contract_dilation", False),
        )

    @property
    def data_sets(self) -> Sequence[str]:
        """See :attr:`FrameworkConfig.data_sets`."""
        return [_where(leaf) for leaf in leaves(self.cfg.train_dataloader.dataset)]

    @property
    def lacking(self) -> Sequence[str]:
        """See :attr:`FrameworkConfig.lacking`."""
        return ()

    def images(self) -> ImageSource:
        """The training images, each by itself through the test pipeline and the model's data preprocessor.

        They need no labels; what the preprocessor pads an image to is part of it.
        """
        self._require_data()
        pipeline = inference_pipeline(self.cfg)
        entries = [self._unlabelled(leaf, pipeline) for leaf in leaves(self.cfg.train_dataloader.dataset)]
        images = OfDataSets(entries, self.scope)
        return self._preprocessed(images, [path.name for path in images.paths])

    def images_of(self, images: Images) -> ImageSource:
        """See :meth:`FrameworkConfig.images_of`."""
        return self._preprocessed(OfNoDataSet(images, inference_pipeline(self.cfg), self.scope), images.keys)

    def write(self, arch: Arch, weights: Path, path: Path, iterations: int | None = None) -> None:
        """Write a self-contained config that trains a network with the framework's own tools.

        Args:
            arch: the network.
            weights: its weights in torchvision's names; the config refers to them relative to itself, so that both can
                be moved together.
            path: the ``.py`` file to write.
            iterations: see :meth:`FrameworkConfig.write`.
        """
        written = copy.deepcopy(self.cfg)
        if iterations is not None:
            set_iterations(written, iterations)
        init_cfg = {"type": "Pretrained", "checkpoint": beside_config(weights)}
        set_arch(detector(written), arch, init_cfg=init_cfg)
        save_config(written, self.scope, path)

    def finetune(
        self,
        out: Path,
        *,
        resume: bool = False,
        eval_only: bool = False,
        weights: Path | None = None,
        stepped: Callable[[int], None] = lambda step: None,
    ) -> Mapping[str, float]:
        """Train with MMEngine's runner, and evaluate with the config's evaluator on its validation set.

        See :meth:`FrameworkConfig.finetune`; weights of a whole model are a ``.pth`` file.
        """
        self._require_data()
        self._require_figures()
        for loader in LOADERS[1:2] if eval_only else LOADERS[:2]:
            self._require_labels(loader)
        metrics = train_or_evaluate(
            self.cfg,
            out,
            self.scope,
            self.networks,
            resume=resume,
            eval_only=eval_only,
            weights=weights,
            stepped=stepped,
        )
        return self._figures(metrics)

    def _require_data(self) -> None:
        if self._missing is not None:
            raise self._missing

    def _preprocessed(self, images: Indexed, names: Sequence[str]) -> ImageSource:
        preprocessor = self.cfg.model.get("data_preprocessor") or ConfigDict(type=self.preprocessor)
        workers = self.cfg.test_dataloader.get("num_workers", 0)
        return OpenMMLabImages(images, names, preprocessor, self.scope, workers)

    @abstractmethod
    def _find_data(self, data_root: Path | None) -> None:
        """Put the data root into every data set of the config, or check the config's own."""

    @abstractmethod
    def _find_classes(self, classes: Sequence[str] | None) -> None:
        """Give the data sets and heads of the config their classes: the given ones, or those of the data."""

    @abstractmethod
    def _unlabelled(self, leaf: ConfigDict, pipeline: Sequence[Any]) -> ConfigDict:
        """A data set entry that gives every image of ``leaf``, through ``pipeline`` and without labels."""

    @abstractmethod
    def _require_labels(self, loader: str) -> None:
        """Check the labels of ``train_dataloader`` or ``val_dataloader`` against the model's classes."""

    @abstractmethod
    def _require_figures(self) -> None:
        """Check that the config's evaluator gives the figures of this task."""

    @abstractmethod
    def _figures(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """The figures of this task, in percent, from what the evaluator said."""


def _where(leaf: ConfigDict) -> str:
    """A data set entry's class, and the folder of its images."""
    name = leaf.type if isinstance(leaf.type, str) else leaf.type.__name__
    first = next((each for each in (leaf.get("data_prefix") or {}).values() if isinstance(each, str)), "")
    return f"{name} in {Path(leaf.get('data_root') or '', first).absolute()}"
