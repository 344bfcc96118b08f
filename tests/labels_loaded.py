"""What the training loader of a detector's config makes of annotations."""

from pathlib import Path

import pytest
from PIL import Image

from data_plugin import UserError
from data_plugin.frameworks.framework_config import FrameworkConfig

Label = tuple[str, tuple[float, ...]]
"""A class, and left, top, right and bottom in pixels from 0."""


def title(config: FrameworkConfig) -> str:
    return config._title


def loaded(config: FrameworkConfig) -> dict[str, list[Label]]:
    """What the training loader of a config gives of every image, by its name, after fine-tuning's own checks.

    Args:
        config: a config of detectron2 or MMDetection that leaves the images of a training in their size.
    """
    return (_loaded_by_detectron2 if title(config) == "detectron2" else _loaded_by_mmdet)(config._config)


def _loaded_by_detectron2(config) -> dict[str, list[Label]]:
    from detectron2.data import DatasetMapper, MetadataCatalog, get_detection_dataset_dicts

    from data_plugin.backbones.detectron2.labels import require_data_sets
    from data_plugin.backbones.detectron2.own_classes import register_classes

    for each in config._placed:
        each.register()
    register_classes(config.cfg)
    require_data_sets(config.cfg.DATASETS.TRAIN)
    names = MetadataCatalog.get(config.cfg.DATASETS.TRAIN[0]).thing_classes
    records = get_detection_dataset_dicts(config.cfg.DATASETS.TRAIN, config.cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    found = {}
    for item in map(DatasetMapper(config.cfg, is_train=True), records):
        assert tuple(item["image"].shape[1:]) == _shape(item["file_name"])
        labels, boxes = item["instances"].gt_classes.tolist(), item["instances"].gt_boxes.tensor.tolist()
        found[Path(item["file_name"]).stem] = [
            (names[label], tuple(box)) for label, box in zip(labels, boxes, strict=True)
        ]
    return found


def _loaded_by_mmdet(config) -> dict[str, list[Label]]:
    from mmdet.registry import DATASETS
    from mmengine.registry import DefaultScope

    config._require_labels("train_dataloader")
    with DefaultScope.overwrite_default_scope("mmdet"):
        data = DATASETS.build(config.cfg.train_dataloader.dataset)
    names, found = data.metainfo["classes"], {}
    for item in data:
        sample = item["data_samples"]
        assert tuple(item["inputs"].shape[1:]) == _shape(sample.img_path)
        labels, boxes = sample.gt_instances.labels.tolist(), sample.gt_instances.bboxes.tensor.tolist()
        found[Path(sample.img_path).stem] = [
            (names[label], tuple(box)) for label, box in zip(labels, boxes, strict=True)
        ]
    return found


def _shape(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.height, image.width


def refused(config: FrameworkConfig, folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        config.finetune(folder / "out")
    assert "\n" not in str(caught.value)
    assert not (folder / "out").exists()
