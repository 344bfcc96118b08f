"""A training of another length: the framework's own schedule, at every part of it, gives the rate of the recipe's."""

from collections.abc import Callable

import pytest
import torch

from data_plugin import Arch, UserError

ITERATIONS = 240
"""Of a recipe of 24,000 or 40,000."""


def rates(step: Callable[[], None], optimiser: torch.optim.Optimizer, count: int) -> list[float]:
    found = []
    for _ in range(count):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        step()
    return found


def optimiser(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], rate)


def rates_of_detectron2(path) -> list[float]:
    from detectron2.config import get_cfg
    from detectron2.solver import build_lr_scheduler

    import data_plugin.backbones.detectron2  # noqa: F401

    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    changed = optimiser(cfg.SOLVER.BASE_LR)
    return rates(build_lr_scheduler(cfg, changed).step, changed, cfg.SOLVER.MAX_ITER)


def rates_of_openmmlab(path) -> list[float]:
    from mmengine.config import Config
    from mmengine.registry import PARAM_SCHEDULERS

    cfg = Config.fromfile(path)
    changed = optimiser(cfg.optim_wrapper.optimizer.lr)
    schedulers = [PARAM_SCHEDULERS.build({**each, "optimizer": changed}) for each in cfg.param_scheduler]
    assert cfg.train_cfg.type == "IterBasedTrainLoop"
    assert cfg.train_cfg.val_interval <= cfg.train_cfg.max_iters
    return rates(lambda: [each.step() for each in schedulers], changed, cfg.train_cfg.max_iters)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_shorter_training_has_the_recipes_schedule_in_proportion(example, tmp_path):
    of = rates_of_detectron2 if example.framework.name == "detectron2" else rates_of_openmmlab
    recipe, shorter = (tmp_path / example.framework.configs.file_name(name) for name in ("recipe", "shorter"))
    opened, weights = example.open(), tmp_path / "backbone.pth"
    opened.write(Arch.resnet50(), weights, recipe)
    opened.write(Arch.resnet50(), weights, shorter, ITERATIONS)
    long, short = of(recipe), of(shorter)
    assert len(short) == ITERATIONS
    share = len(long) / ITERATIONS
    expected = [pytest.approx(long[round(at * share)], abs=0.02 * max(long)) for at in range(ITERATIONS)]
    off = [at for at, rate in enumerate(short) if rate != expected[at]]
    assert len(off) <= 4, off  # at the edges of the warm-up and of a step
    opened.write(Arch.resnet50(), weights, tmp_path / recipe.name.replace("recipe", "again"))
    assert of(tmp_path / recipe.name.replace("recipe", "again")) == long


def test_epochs_become_iterations():
    pytest.importorskip("mmengine", reason="mmengine is not installed")
    from mmengine.config import Config

    from data_plugin.backbones.openmmlab.iterations import set_iterations

    warm_up = {"type": "LinearLR", "start_factor": 0.001, "by_epoch": False, "begin": 0, "end": 500}
    steps = {"type": "MultiStepLR", "begin": 0, "end": 12, "by_epoch": True, "milestones": [8, 11], "gamma": 0.1}
    cosine = {"type": "CosineAnnealingLR", "T_max": 6, "begin": 6, "end": 12, "convert_to_iter_based": True}
    cfg = Config(
        {
            "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 12, "val_interval": 1},
            "param_scheduler": [warm_up, steps, cosine],
            "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 1}},
            "log_processor": {"type": "LogProcessor", "by_epoch": True},
        }
    )
    set_iterations(cfg, 120)
    assert dict(cfg.train_cfg) == {"type": "IterBasedTrainLoop", "max_iters": 120, "val_interval": 120}
    assert dict(cfg.param_scheduler[0]) == {**warm_up, "end": 12}
    assert dict(cfg.param_scheduler[1]) == {**steps, "by_epoch": False, "end": 120, "milestones": [80, 110]}
    assert dict(cfg.param_scheduler[2]) == {
        **{"type": "CosineAnnealingLR", "T_max": 60, "begin": 60, "end": 120, "by_epoch": False}
    }
    assert (cfg.default_hooks.checkpoint.by_epoch, cfg.default_hooks.checkpoint.interval) == (False, 30)
    assert not cfg.log_processor.by_epoch
    cfg.train_cfg = {"type": "MyLoop", "rounds": 3}
    with pytest.raises(UserError, match="without max_epochs and max_iters"):
        set_iterations(cfg, 120)
