"""detectron2's YAML configs, to search and fine-tune with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from detectron2.config import get_cfg
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads

from data_plugin.backbones.detectron2.coco_classes import find_coco_classes
from data_plugin.backbones.detectron2.datasets import (
    COCO,
    VOC,
    DataSet,
    below,
    data_sets_of,
    image_files,
    leave_out_absent_years,
    registered,
    where,
)
from data_plugin.backbones.detectron2.finetune import finetune
from data_plugin.backbones.detectron2.images import ModelInputs
from data_plugin.backbones.detectron2.iterations import set_iterations
from data_plugin.backbones.detectron2.own_classes import register_classes
from data_plugin.backbones.detectron2.swap import with_data_resnet
from data_plugin.backbones.detectron2.voc_classes import find_voc_classes
from data_plugin.backbones.detectron2.weights import BY_NAME_ENDINGS
from data_plugin.frameworks.framework_config import FrameworkConfig
from data_plugin.images.batch import ImageSource
from data_plugin.images.image_files import Images
from data_plugin.images.input_format import InputFormat
from data_plugin.images.voc import missing_lists
from data_plugin.search.taps import check_taps
from data_plugin.space.arch import STAGE_TAPS, Arch
from data_plugin.space.resolution import Resolution
from data_plugin.utils.errors import UserError
from data_plugin.utils.files import write_whole


class Detectron2Config(FrameworkConfig):
    """A YAML config of detectron2; arguments and errors are those of :class:`FrameworkConfig`.

    Without ``data_root`` detectron2's own convention holds: the data sets are below ``DETECTRON2_DATASETS``.

    Attributes:
        cfg: the config, with ``DATAResNet`` in its ResNet's place.
    """

    def __init__(
        self,
        path: Path,
        options: Sequence[str] = (),
        data_root: Path | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        if path.suffix == ".py":
            raise UserError(
                f"{path} is a LazyConfig, and the tools read detectron2's YAML configs; give one of those, or set the "
                "backbone in the LazyConfig yourself with data_plugin.backbones.detectron2.lazy_with_data_resnet"
            )
        cfg = get_cfg()
        try:
            cfg.merge_from_file(str(path))
        except Exception as error:  # whatever YAML holds, and Python objects in it
            reason = " ".join(str(error.args[0] if error.args else error).split())
            raise UserError(f"{path} is not a config that detectron2 can read: {reason}") from error
        for option in options:
            key, equals, value = option.partition("=")
            if not equals:
                raise UserError(f"the option {option!r} has no value; expected KEY=VALUE such as SOLVER.MAX_ITER=100")
            cfg.merge_from_list([key, value])
        torch.device(cfg.MODEL.DEVICE)  # what is no device fails here, not only where a model is built
        self.cfg = with_data_resnet(cfg)
        self._placed: Sequence[DataSet] = ()
        if data_root is None:
            leave_out_absent_years(self.cfg)
        else:
            self._placed = below(data_root, self.cfg)
        self._find_classes(classes)

    @property
    def input_format(self) -> InputFormat:
        """See :attr:`FrameworkConfig.input_format`."""
        mean, std = self.cfg.MODEL.PIXEL_MEAN, self.cfg.MODEL.PIXEL_STD
        return InputFormat(self.cfg.INPUT.FORMAT, tuple(map(float, mean)), tuple(map(float, std)))  # type: ignore[arg-type]

    @property
    def taps(self) -> tuple[str, ...]:
        """The feature maps that the model reads: the FPN's, C5 where stage 4 is the RoI head, or the outputs."""
        model = self.cfg.MODEL
        if model.FPN.IN_FEATURES:
            features = model.FPN.IN_FEATURES
        elif self._is_c4:
            features = ["res5"]
        else:
            features = model.RESNETS.OUT_FEATURES
        by_feature = {f"res{tap[1:]}": tap for tap in STAGE_TAPS}
        return check_taps([by_feature.get(feature, feature) for feature in features])

    @property
    def resolution(self) -> Resolution:
        """See :attr:`FrameworkConfig.resolution`; ``RES5_DILATION`` is not for a RoI head."""
        dilation = 1 if self._is_c4 else self.cfg.MODEL.RESNETS.RES5_DILATION
        return Resolution(strides=(1, 2, 2, 2 // dilation), dilations=(1, 1, 1, dilation))

    @property
    def data_sets(self) -> Sequence[str]:
        """See :attr:`FrameworkConfig.data_sets`."""
        return [where(name, self._placed) for name in self.cfg.DATASETS.TRAIN]

    @property
    def lacking(self) -> Sequence[str]:
        """See :attr:`FrameworkConfig.lacking`: lists of VOC's splits to evaluate on."""
        splits = [voc.listed for voc in data_sets_of(VOC, self.cfg, self._placed) if voc.name in self.cfg.DATASETS.TEST]
        return missing_lists(splits)

    def images(self) -> ImageSource:
        """See :meth:`FrameworkConfig.images`: those of ``DATASETS.TRAIN``.

        Raises:
            UserError: if a data set is unknown, or an image or the list of them is missing.
        """
        files = image_files(self.cfg.DATASETS.TRAIN, self._placed)
        return ModelInputs(self.cfg, [file.name for file in files], lambda index: nullcontext(files[index]))

    def images_of(self, images: Images) -> ImageSource:
        """See :meth:`FrameworkConfig.images_of`."""
        return ModelInputs(self.cfg, images.keys, images.file)

    def write(self, arch: Arch, weights: Path, path: Path, iterations: int | None = None) -> None:
        """See :meth:`FrameworkConfig.write`."""
        cfg = self.cfg.clone()
        if iterations is not None:
            set_iterations(cfg, iterations)
        cfg.MODEL.DATA_RESNET.ARCH = str(arch)
        # detectron2 looks up a relative path from the working directory.
        cfg.MODEL.WEIGHTS = f"{weights.absolute()}{BY_NAME_ENDINGS}"
        text = (
            f"# {arch}. It trains with detectron2's tools/train_net.py, or any script of yours, after the line\n"
            f"#   import {__package__}\n"
            f"# with the data sets below $DETECTRON2_DATASETS. Where DATASETS.CLASSES names classes, those of VOC and\n"
            f"# COCO get them when the model is built.\n{cfg.dump()}"
        )
        write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def finetune(
        self,
        out: Path,
        *,
        resume: bool = False,
        eval_only: bool = False,
        weights: Path | None = None,
        stepped: Callable[[int], None] = lambda step: None,
    ) -> Mapping[str, float]:
        """See :meth:`FrameworkConfig.finetune` and :func:`finetune`."""
        with registered(self._placed):
            register_classes(self.cfg)
            return finetune(self.cfg, out, resume=resume, eval_only=eval_only, weights=weights, stepped=stepped)

    def _find_classes(self, classes: Sequence[str] | None) -> None:
        voc, coco = data_sets_of(VOC, self.cfg, self._placed), data_sets_of(COCO, self.cfg, self._placed)
        if classes is not None and not voc and all(each.is_of_keypoints for each in coco):
            names = dict.fromkeys((*self.cfg.DATASETS.TRAIN, *self.cfg.DATASETS.TEST))
            raise UserError(
                f"the classes {', '.join(classes)} are given, but they can be named for detectron2's data sets of VOC "
                f"and of COCO's objects alone, and the config has {', '.join(names) or 'none'}"
            )
        find_voc_classes(self.cfg, self._placed, classes)
        find_coco_classes(self.cfg, self._placed, classes)

    @property
    def _is_c4(self) -> bool:
        """Whether stage 4 is the RoI head."""
        model = self.cfg.MODEL
        return model.META_ARCHITECTURE == "GeneralizedRCNN" and issubclass(
            ROI_HEADS_REGISTRY.get(model.ROI_HEADS.NAME), Res5ROIHeads
        )
