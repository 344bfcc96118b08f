"""Fine-tuning through MMEngine's runner, on a handful of drawn images."""

import itertools
import shutil
import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="MMDetection is not installed")

from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from data_plugin import Arch, UserError
from data_plugin.backbones.data_resnet import DATAResNet
from data_plugin.backbones.mmdet.config import MMDetConfig
from data_plugin.frameworks.registry import MMDET
from data_plugin.images.drawn_voc import draw_voc
from data_plugin.images.voc import CLASSES
from data_plugin.supernet.backbone_files import PTH_FILE, save_backbone

ARCH = Arch.parse("d1-1-1-1_w8-8-8-8-16")
TINY = [
    "train_cfg.max_iters=2",
    "train_cfg.val_interval=2",
    "custom_hooks.0.num_iters=3",
    "train_dataloader.num_workers=0",
    "val_dataloader.num_workers=0",
    "train_dataloader.dataset.datasets.0.pipeline.3.scales=[(200,64)]",
    "train_dataloader.dataset.datasets.0.pipeline.4.prob=0.0",
    "val_dataloader.dataset.pipeline.1.scale=(200,64)",
    "model.train_cfg.rpn_proposal.max_per_img=50",
    "model.train_cfg.rcnn.sampler.num=16",
    "model.test_cfg.rpn.max_per_img=50",
]


@pytest.fixture(scope="module")
def voc(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("voc")
    draw_voc(root, train=5, test=2, size=(96, 64))
    return root


@pytest.fixture(scope="module")
def winner(tmp_path_factory, voc: Path) -> Path:
    folder = tmp_path_factory.mktemp("winner")
    save_backbone(folder, DATAResNet(ARCH))
    load("faster_rcnn_c4_voc", voc).write(ARCH, folder / PTH_FILE, folder / "config.py")
    return folder / "config.py"


def load(config: str | Path, voc: Path | None = None, *options: str) -> MMDetConfig:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TRAINING DATA")
        return MMDetConfig(MMDET.configs.find(str(config)), options, voc)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, winner: Path) -> tuple[Path, dict[str, float]]:
    out = tmp_path_factory.mktemp("runs") / "out"
    return out, dict(load(winner, None, *TINY).finetune(out))


def test_training_evaluates_and_a_second_call_gives_the_same_figures(trained, winner: Path) -> None:
    out, metrics = trained
    assert metrics.keys() == {"AP", "AP50", "AP75"}
    assert all(0 <= value <= 100 for value in metrics.values())
    again = load(winner, None, *TINY).finetune(out, eval_only=True)
    assert again == pytest.approx(metrics)


def test_figures_are_the_evaluators_in_percent(trained, winner: Path, monkeypatch) -> None:
    out, _ = trained
    from mmdet.evaluation.metrics import VOCMetric

    fractions = {"mAP": 0.4251, "AP50": 0.815, "AP75": 0.312}
    monkeypatch.setattr(VOCMetric, "compute_metrics", lambda self, results: fractions)
    found = load(winner, None, *TINY).finetune(out, eval_only=True)
    assert found == pytest.approx({"AP": 42.51, "AP50": 81.5, "AP75": 31.2})


def test_perfect_detections_score_a_hundred(winner: Path, voc: Path, tmp_path: Path, trained, monkeypatch) -> None:
    from mmdet.models.detectors import FasterRCNN

    def predict(self, inputs, samples, rescale=True):
        for sample in samples:
            truth = sample.gt_instances
            boxes = truth.bboxes.tensor if hasattr(truth.bboxes, "tensor") else truth.bboxes
            sample.pred_instances = type(truth)(bboxes=boxes, labels=truth.labels, scores=torch.ones(len(boxes)))
        return samples

    monkeypatch.setattr(FasterRCNN, "predict", predict)
    found = load(winner, None, *TINY).finetune(trained[0], eval_only=True)
    assert found == pytest.approx({"AP": 100, "AP50": 100, "AP75": 100})


def test_resume_goes_on_where_the_run_stopped(trained, winner: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained[0], out)
    (out / "last_checkpoint").write_text("/moved/away/iter_2.pth")
    longer = load(winner, None, *TINY, "train_cfg.max_iters=3")
    longer.finetune(out, resume=True)
    first, last = (read(out / f"iter_{iteration}.pth") for iteration in (2, 3))
    assert last["meta"]["iter"] == 3
    assert [scheduler["last_step"] for scheduler in last["param_schedulers"]] == [3, 3]
    momentum = [state["momentum_buffer"] for state in last["optimizer"]["state"].values()]
    assert len(momentum) == len(first["optimizer"]["state"])
    moved = [name for name, value in last["state_dict"].items() if not torch.equal(value, first["state_dict"][name])]
    assert "backbone.conv1.weight" in moved
    # Nothing is left to do: only the evaluation is repeated.
    assert longer.finetune(out, resume=True).keys() == {"AP", "AP50", "AP75"}


def read(path: Path) -> dict:
    return torch.load(path, weights_only=False)  # written by this test


def test_training_starts_from_the_backbone_and_moves_everything(trained, winner: Path) -> None:
    before = torch.load(winner.parent / PTH_FILE, weights_only=True)
    after = read(trained[0] / "iter_2.pth")["state_dict"]
    for name, value in before.items():
        place = "roi_head.shared_head." if name.startswith("layer4.") else "backbone."
        assert after[place + name].shape == value.shape
        if name.endswith("weight") and value.ndim == 4:
            # two warm-up steps are small, so the trained weights are still near those of the file
            assert not torch.equal(after[place + name], value), name
            torch.testing.assert_close(after[place + name], value, atol=0.01, rtol=0)


def test_precise_batch_norm_averages_over_training_batches(trained, winner: Path) -> None:
    state = read(trained[0] / "iter_2.pth")["state_dict"]
    config = load(winner, None, *TINY)
    with DefaultScope.overwrite_default_scope("mmdet"):
        loader = Runner.build_dataloader(config.cfg.train_dataloader, seed=0)
        preprocessor = MODELS.build(config.cfg.model.data_preprocessor)
    means, variances = [], []
    for batch in itertools.islice(loader, 3):
        images = preprocessor(batch, True)["inputs"]
        out = torch.nn.functional.conv2d(images, state["backbone.conv1.weight"], stride=2, padding=3)
        means.append(out.mean((0, 2, 3)))
        variances.append(out.var((0, 2, 3)))
    torch.testing.assert_close(state["backbone.bn1.running_mean"], torch.stack(means).mean(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state["backbone.bn1.running_var"], torch.stack(variances).mean(0), atol=1e-4, rtol=1e-3)


def test_precise_batch_norm_leaves_frozen_layers_alone(winner: Path, tmp_path: Path) -> None:
    config = load(winner, None, *TINY, "model.backbone.frozen_stages=1", "train_cfg.max_iters=1")
    config.finetune(tmp_path / "out")
    before = torch.load(winner.parent / PTH_FILE, weights_only=True)
    after = read(tmp_path / "out/iter_1.pth")["state_dict"]
    for name, value in before.items():
        if name.split(".")[0] in ("conv1", "bn1", "layer1"):
            assert torch.equal(after[f"backbone.{name}"], value), name
    assert not torch.equal(after["backbone.layer2.0.bn1.running_mean"], before["layer2.0.bn1.running_mean"])


def test_difficult_objects_are_trained_on_but_not_scored(voc: Path, tmp_path: Path) -> None:
    root = tmp_path / "voc"
    shutil.copytree(voc, root)
    for annotation in (root / "VOC2007/Annotations").glob("*.xml"):
        annotation.write_text(annotation.read_text().replace("<difficult>0<", "<difficult>1<"))
    config = load("faster_rcnn_c4_voc", root)
    from mmdet.registry import DATASETS

    with DefaultScope.overwrite_default_scope("mmdet"):
        training = DATASETS.build(config.cfg.train_dataloader.dataset)[0]["data_samples"]
        scored = DATASETS.build(config.cfg.val_dataloader.dataset)[0]["data_samples"]
    assert len(training.gt_instances) > 0
    assert len(training.ignored_instances) == 0
    assert len(scored.gt_instances) == 0
    assert len(scored.ignored_instances) > 0


def test_nothing_to_resume_or_evaluate(winner: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = load(winner, None, *TINY)
    with pytest.raises(UserError, match=r"no checkpoint in .* to evaluate"):
        config.finetune(out, eval_only=True)
    with pytest.raises(UserError, match=r"no checkpoint in .* to resume"):
        config.finetune(out, resume=True)
    with pytest.raises(UserError, match="leave out eval_only and weights"):
        config.finetune(out, resume=True, weights=tmp_path / "a.pth")
    assert not out.exists()


def test_weights_of_another_architecture_are_refused(trained, winner: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wider = load(winner, None, *TINY, "model.backbone.arch=d1-1-1-1_w8-8-16-8-16")
    with pytest.raises(
        UserError, match=r"backbone.pth does not hold the weights of d1-1-1-1_w8-8-16-8-16: .*another shape"
    ):
        wider.finetune(out)
    with pytest.raises(UserError, match=r"iter_2.pth does not hold the weights of this config's model"):
        wider.finetune(out, eval_only=True, weights=trained[0] / "iter_2.pth")
    assert not out.exists()


class _Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


class _Reaching:
    """Wants ``getattr`` of something that MMEngine's checkpoints have no use for."""

    def __reduce__(self):
        return (getattr, (torch.Tensor, "__init__"))


def test_checkpoints_with_code_are_refused_and_not_run(winner: Path, tmp_path: Path) -> None:
    config = load(winner, None, *TINY)
    for number, content in enumerate((_Malicious(tmp_path / "executed"), _Reaching())):
        path = tmp_path / f"bad{number}.pth"
        torch.save({"state_dict": {}, "extra": content}, path)
        with pytest.raises(UserError, match="could run code"):
            config.finetune(tmp_path / "out", eval_only=True, weights=path)
    (tmp_path / "short.pth").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(UserError, match=r"short.pth"):
        config.finetune(tmp_path / "out", eval_only=True, weights=tmp_path / "short.pth")
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "out").exists()


def test_unknown_classes_and_missing_files_are_named(voc: Path, winner: Path, tmp_path: Path) -> None:
    root = tmp_path / "voc"
    shutil.copytree(voc, root)
    annotation = root / "VOC2007/Annotations/000001.xml"
    good = annotation.read_text()
    annotation.write_text(good.replace("<object>", "<object><name>unicorn</name>", 1).replace("<object>", "<object>"))
    with pytest.raises(UserError, match=r"00001.xml has an object of class 'unicorn'"):
        MMDetConfig(winner, TINY, root, CLASSES)
    annotation.write_text(good)
    (root / "VOC2007/ImageSets/Main/test.txt").unlink()
    with pytest.raises(UserError, match=r"test.txt is missing"):
        load(winner, root, *TINY).finetune(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option",
    [
        "optim_wrapper=3",  # fails before anything is built
        "train_dataloader.batch_size=abc",  # when the runner is there
        "model.train_cfg.rcnn.sampler.num=abc",  # in the first step
    ],
)
def test_an_option_that_training_cannot_begin_with_is_named(winner: Path, tmp_path: Path, option: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = MMDET.open(str(winner), [*TINY, option, "randomness.seed=1"])
        with pytest.raises(UserError, match=rf"^MMDetection cannot use the option '{option}' \(\w+: ") as caught:
            config.finetune(tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_runs_of_one_process_keep_their_files_apart(winner: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        load(winner, None, *TINY).finetune(tmp_path / name)
        assert list((tmp_path / name).glob("*/vis_data/config.py")), name
        shutil.rmtree(tmp_path / name)


def test_mixed_precision_without_a_gpu_is_refused(winner: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mixed precision on GPUs only; .* optim_wrapper.type=OptimWrapper"):
        load(winner, None, *TINY, "optim_wrapper.type=AmpOptimWrapper").finetune(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_evaluators_without_the_three_figures_are_refused(winner: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"iou_thrs=\[0.5\]"):
        load(winner, None, *TINY, "val_evaluator.iou_thrs=[0.5]").finetune(tmp_path / "out")
    with pytest.raises(UserError, match="expected type='VOCMetric', or type='CocoMetric'"):
        load(winner, None, *TINY, "val_evaluator.type=DumpResults").finetune(tmp_path / "out")
