"""Whether training on other batches than the recipe's is said."""

import warnings

import pytest

pytest.importorskip("mmengine", reason="MMEngine is not installed")

from mmengine.config import Config

from data_plugin.backbones.openmmlab.batch_size import warn_of_another_batch
from data_plugin.frameworks.registry import MMDET, MMSEG


def config(batch_size: int = 2, **entries) -> Config:
    return Config({"train_dataloader": {"batch_size": batch_size}, "train_cfg": {}, **entries})


@pytest.mark.parametrize(("batch_size", "processes"), [(2, 8), (16, 1), (4, 4)])
def test_the_recipes_batch_needs_no_word(batch_size: int, processes: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_another_batch(config(batch_size, auto_scale_lr={"base_batch_size": 16}), processes)


def test_a_smaller_batch_says_what_it_means_and_what_to_do() -> None:
    iterations = {"type": "IterBasedTrainLoop", "max_iters": 24000}
    with pytest.warns(UserWarning, match="THE BATCH IS NOT THE RECIPE'S") as said:
        warn_of_another_batch(config(train_cfg=iterations, auto_scale_lr={"base_batch_size": 16}), 1)
    text = str(said[0].message)
    assert "a step is of 2 images, the learning rate is for 16 and is not scaled" in text
    assert "24000 iterations see 0.125 of the recipe's images" in text
    assert "train_dataloader.batch_size=16" in text


def test_a_scaled_learning_rate_is_called_so() -> None:
    with pytest.warns(UserWarning, match=r"2 images \(1 in each of 2 processes\), .* is scaled by 0.25"):
        warn_of_another_batch(config(1, auto_scale_lr={"base_batch_size": 8, "enable": True}), 2)


def test_a_config_that_does_not_say_its_batch_is_called_so() -> None:
    with pytest.warns(UserWarning, match=r"a step is of 2 images, and the config does not say .*base_batch_size"):
        warn_of_another_batch(config(), 1)


@pytest.mark.parametrize("names", [MMDET.configs, MMSEG.configs])
def test_our_recipes_say_it(names) -> None:
    folder = names.find("fcn_d8_cityscapes" if names.framework == "mmseg" else "faster_rcnn_c4_voc").parent
    for path in folder.glob("*.py"):
        recipe = Config.fromfile(path)
        base = 4 if path.stem.endswith("demo") else 16
        assert recipe.auto_scale_lr.base_batch_size == base, path
