"""How many configs of the installed model zoos work with DATAResNet in the place of their ResNet.

Every config with a plain ResNet backbone is swapped, given a small architecture whose channel counts are nowhere a
ResNet's, built, and run: one training forward and backward on a tiny random batch, one inference. Weights to download
and batch augmentations (padding to 1024 x 1024) are left out. Configs whose models are the same after the swap (another
schedule, other augmentations) are run once. A model that fails is run again with its own ResNet, to tell what the swap
breaks from what cannot run on this machine.

    python benchmarks/config_coverage.py --framework mmdet --out coverage.json

A run that was stopped goes on where it was: configs that --out holds already are not tried again.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import fnmatch
import hashlib
import importlib
import io
import json
import logging
import multiprocessing
import os
import re
import resource
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from data_plugin import Arch, UserError
from data_plugin.utils.files import write_whole

ARCH = "d1-1-1-1_w8-8-16-24-40"
WORKING, REFUSED, FAILED = "working", "refused", "failed"
ALIKE = "; with its own ResNet it fails alike"
GPU_ONLY = "implementation for device cpu not found"
"""What MMCV says of operators that it has for GPUs alone."""
OTHER, NO_MODEL, UNREADABLE = "other backbone", "no model", "unreadable"

REGIONS = 32
"""Regions an image that RoI heads work on; hundreds, as in the configs, would take ten times as long."""

PLAIN = ("ResNet", "ResNetV1c")
"""OpenMMLab's names of plain ResNets; the second has a stem of three 3x3 convolutions."""

Steps = Callable[[], None]


@dataclass(frozen=True)
class Attempt:
    """A config after the swap.

    Args:
        model: tells its model from others.
        run: builds, trains and infers once; may raise anything.
        stock: the same with the config's own ResNet.
    """

    model: str
    run: Steps
    stock: Steps


class NotTried(Exception):
    """A config that is none of ours to try; its arguments are one of the outcomes above and the reason."""


class OpenMMLab:
    """The configs that a package of OpenMMLab ships.

    Args:
        package: the package, which is its registry scope and its adapter's name too.
    """

    def __init__(self, package: str) -> None:
        self.package = package

    def names(self) -> list[str]:
        return [str(path.relative_to(self._folder())) for path in _python_configs(self._folder())]

    def attempt(self, name: str, arch: Arch) -> Attempt:
        from mmengine.config import Config

        importlib.import_module(f"data_plugin.backbones.{self.package}")
        from data_plugin.backbones.openmmlab.swap import detector, replace_resnet, set_arch

        registry = importlib.import_module(f"{self.package}.registry").MODELS
        try:
            config = Config.fromfile(self._folder() / name)
        except Exception as error:
            raise NotTried(UNREADABLE, _first_line(error)) from error
        if not config.get("model") or "type" not in config.model:
            raise NotTried(NO_MODEL, "a part that other configs take in")
        _only_plain_resnets(config.model, lambda: replace_resnet(config, registry))
        stock = copy.deepcopy(config.model)
        replace_resnet(config, registry)
        set_arch(detector(config), arch)
        make_small(stock)
        make_small(config.model)
        return Attempt(_hash(config.model), lambda: self._run(config.model), lambda: self._run(stock))

    def _run(self, settings: Any) -> None:
        from mmengine.logging import MessageHub
        from mmengine.registry import DefaultScope

        os.chdir(self._folder().parent)  # distillation configs name their teacher's from there
        for counter in ("epoch", "iter"):
            MessageHub.get_current_instance().update_info(counter, 0)  # as the training loop does
        with DefaultScope.overwrite_default_scope(self.package):
            try:
                self._train_and_infer(settings, 128)
            except Exception as error:
                if isinstance(error, UserError) or GPU_ONLY in str(error):
                    raise
                self._train_and_infer(settings, 512)  # some models need more positions in their feature maps

    def _train_and_infer(self, settings: Any, side: int) -> None:
        import torch
        from mmengine.model import revert_sync_batchnorm

        registry = importlib.import_module(f"{self.package}.registry").MODELS
        settings = copy.deepcopy(settings)
        few_regions(settings)
        model = revert_sync_batchnorm(registry.build(settings))
        model.init_weights()
        training, testing = self._batches(model, side)
        model.train()  # some detectors' own does not return them
        losses = model(**model.data_preprocessor(training, True), mode="loss")
        total, _ = model.parse_losses(losses)
        total.backward()
        moved = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
        assert torch.isfinite(total), f"the loss is {total.item()}"
        assert any("backbone" in name for name in moved), "the backbone has no gradient"
        model.eval()
        with torch.no_grad():
            assert len(model(**model.data_preprocessor(testing, False), mode="predict")) == 1

    def _batches(self, model: Any, side: int) -> tuple[dict[str, Any], dict[str, Any]]:
        if self.package == "mmseg":
            return _segmentation_batches(side)
        proposals = not getattr(model, "with_rpn", False)  # they would take the place of the model's own
        return _detection_batches(type(model.data_preprocessor).__name__, side, proposals)

    def _folder(self) -> Path:
        return Path(str(importlib.import_module(self.package).__file__)).parent / ".mim" / "configs"


class Detectron2:
    """The configs of the model zoo that the ``detectron2`` package ships, YAML and LazyConfigs."""

    def names(self) -> list[str]:
        folder = self._folder()
        names = [str(path.relative_to(folder)) for path in (*folder.rglob("*.yaml"), *folder.rglob("*.py"))]
        return sorted(name for name in names if not name.startswith("common/"))

    def attempt(self, name: str, arch: Arch) -> Attempt:
        if Path(name).name.startswith("Base-"):
            raise NotTried(NO_MODEL, "a part that other configs take in")
        return (self._lazy if name.endswith(".py") else self._yaml)(name, arch)

    def _yaml(self, name: str, arch: Arch) -> Attempt:
        from detectron2 import model_zoo
        from detectron2.modeling import build_model

        from data_plugin.backbones import detectron2 as adapter
        from data_plugin.frameworks.registry import DETECTRON2

        stock = model_zoo.get_config(name)
        stock.MODEL.DEVICE = "cpu"
        if stock.MODEL.RESNETS.NUM_GROUPS > 1:
            _require_refusal(lambda: adapter.with_data_resnet(stock))
            raise NotTried(OTHER, "ResNeXt")
        options = [f"MODEL.DATA_RESNET.ARCH={arch}", "MODEL.DEVICE=cpu"]
        config = adapter.Detectron2Config(DETECTRON2.configs.find(name), options).cfg
        model = _hash(config.MODEL)
        for each in (config, stock):
            each.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = REGIONS
            each.MODEL.RPN.POST_NMS_TOPK_TRAIN = each.MODEL.RPN.POST_NMS_TOPK_TEST = REGIONS
        return Attempt(model, lambda: self._run(build_model(config)), lambda: self._run(build_model(stock)))

    def _lazy(self, name: str, arch: Arch) -> Attempt:
        from detectron2 import model_zoo
        from detectron2.config import instantiate
        from detectron2.modeling import ResNet
        from omegaconf import OmegaConf

        from data_plugin.backbones import detectron2 as adapter

        stock = model_zoo.get_config(name)
        backbone = stock.model.get("backbone") or {}
        kind = (backbone.get("bottom_up") or backbone).get("_target_")
        if kind is not ResNet or stock.model.get("num_classes") == 1000:
            _require_refusal(lambda: adapter.lazy_with_data_resnet(stock, arch))
            raise NotTried(OTHER, getattr(kind, "__name__", "another model"))
        config = adapter.lazy_with_data_resnet(stock, arch)
        # Functions among the settings have their address in their text.
        model = _hash(re.sub(r" at 0x\w+", "", str(OmegaConf.to_container(config.model))))
        for each in (config.model, stock.model):
            if "roi_heads" in each:
                each.roi_heads.batch_size_per_image = REGIONS
                each.proposal_generator.post_nms_topk = (REGIONS, REGIONS)
        return Attempt(model, lambda: self._run(instantiate(config.model)), lambda: self._run(instantiate(stock.model)))

    def _run(self, model: Any) -> None:
        import torch
        from detectron2.utils.events import EventStorage

        batch = [self._labelled_image() for _ in range(2)]
        with EventStorage():
            total = sum(model.train()(batch).values())
        total.backward()
        backbone = getattr(model.backbone, "bottom_up", model.backbone)
        assert torch.isfinite(total), f"the loss is {total.item()}"
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.parameters()), "no gradient"
        unlabelled = [{key: item[key] for key in ("image", "height", "width", "proposals")} for item in batch]
        with torch.no_grad():
            assert len(model.eval()(unlabelled)) == 2

    def _labelled_image(self) -> dict[str, Any]:
        """A random image with everything that one of detectron2's models may be taught."""
        import torch
        from detectron2.structures import BitMasks, Boxes, Instances, Keypoints

        side, points = 128, 17
        corners = torch.tensor([[8.0, 8.0, 72.0, 80.0], [40.0, 30.0, 120.0, 90.0], [4.0, 60.0, 60.0, 124.0]])
        labels = Instances((side, side))
        labels.gt_boxes = Boxes(corners)
        labels.gt_classes = torch.zeros(len(corners), dtype=torch.int64)
        masks = torch.zeros(len(corners), side, side, dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(masks, corners.int().tolist(), strict=True):
            mask[top:bottom, left:right] = True
        labels.gt_masks = BitMasks(masks)
        centres = labels.gt_boxes.get_centers()[:, None].expand(-1, points, -1)
        labels.gt_keypoints = Keypoints(torch.cat([centres, torch.full((len(corners), points, 1), 2.0)], dim=2))
        proposals = Instances((side, side))
        proposals.proposal_boxes = Boxes(torch.cat([corners + 2, corners - 3]))
        proposals.objectness_logits = torch.zeros(2 * len(corners))
        return {
            "image": torch.randint(0, 256, (3, side, side), dtype=torch.uint8),
            "height": side,
            "width": side,
            "instances": labels,
            "proposals": proposals,
            "sem_seg": torch.randint(0, 2, (side, side)),
        }

    def _folder(self) -> Path:
        import detectron2

        return Path(detectron2.__file__).parent / "model_zoo" / "configs"


def _segmentation_batches(side: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two random images with labels of classes 0 and 1 for training, and one to infer on."""
    import torch
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    images, samples = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8), []
    for _ in images:
        sample = SegDataSample(metainfo={"img_shape": (side, side), "ori_shape": (side, side)})
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 2, (1, side, side)))
        samples.append(sample)
    batch = {"inputs": list(images), "data_samples": samples}
    return batch, copy.deepcopy({name: values[:1] for name, values in batch.items()})


def _detection_batches(preprocessor: str, side: int, with_proposals: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two random images, or a video of two frames, with labels of class 0 for training, and one to infer on."""
    import torch
    from mmdet.testing import demo_mm_inputs, demo_mm_proposals, demo_track_inputs

    if preprocessor == "TrackDataPreprocessor":
        videos = {"image_shapes": [(3, side, side)], "num_items": [3], "with_mask": True}
        return demo_track_inputs(1, 2, key_frames_inds=[0], **videos), demo_track_inputs(1, 1, **videos)
    shapes = [(3, side, side)] * 2
    batch = demo_mm_inputs(2, shapes, num_items=[3, 3], with_mask=True, with_semantic=True)
    for sample, proposals in zip(batch["data_samples"], demo_mm_proposals(shapes, 20), strict=True):
        if with_proposals:
            sample.proposals = proposals
        sample.gt_instances.labels.zero_()
        sample.gt_sem_seg.sem_seg = sample.gt_sem_seg.sem_seg.clamp(max=1).long()
        sample.set_metainfo({"homography_matrix": torch.eye(3).numpy()})
    one = {name: values[:1] for name, values in batch.items()}  # as all configs test
    if preprocessor != "MultiBranchDataPreprocessor":
        return batch, one
    branches = ("sup", "unsup_teacher", "unsup_student")
    return {name: {branch: copy.deepcopy(values) for branch in branches} for name, values in batch.items()}, one


FRAMEWORKS: Mapping[str, Callable[[], Any]] = {
    "detectron2": Detectron2,
    "mmdet": lambda: OpenMMLab("mmdet"),
    "mmseg": lambda: OpenMMLab("mmseg"),
}
"""Per framework, what lists its model zoo's configs and attempts one."""


def make_small(node: Any) -> None:
    """Take weights to load, what enlarges a batch and norms that need GPUs out of a model's settings."""
    if isinstance(node, dict):
        if node.get("type") == "MMSyncBN":
            node["type"] = "BN"
        node.pop("batch_augments", None)
        if node.get("type") == "SegDataPreProcessor":
            node.update(size=None, size_divisor=1)  # it would pad to the crop size
        if isinstance(node.get("pretrained"), str):
            node["pretrained"] = None
        if (node.get("init_cfg") or {}) and "Pretrained" in str(node["init_cfg"]):
            node["init_cfg"] = None
        if node.get("teacher_ckpt"):
            node["teacher_ckpt"] = None
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        make_small(child)


def _require_refusal(swap: Steps) -> None:
    """Make sure that a swap refuses a network that is none of ours to try."""
    try:
        swap()
    except UserError:
        return
    raise AssertionError("the swap took a network that is no plain ResNet")


def few_regions(node: Any) -> None:
    """Let region heads of MMDetection work on tens of regions, not on hundreds."""
    if isinstance(node, dict):
        for key in {"num", "max_per_img", "num_proposals"} & set(node):
            node[key] = min(node[key], REGIONS)
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        few_regions(child)


def _only_plain_resnets(model: Mapping[str, Any], swap: Steps) -> None:
    """Set aside a model with another network than one of ``PLAIN``, making sure that the swap refuses it."""
    backbone = model.get("backbone") or (model.get("detector") or {}).get("backbone") or {}
    kind = str(backbone.get("type"))
    if kind in PLAIN:
        return
    try:
        swap()
    except UserError:
        raise NotTried(OTHER, kind) from None
    raise AssertionError(f"the swap took a {kind}")


def _python_configs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "_base_" not in path.relative_to(folder).parts)


def _hash(settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def _outcome(attempt: Attempt) -> tuple[str, str]:
    try:
        attempt.run()
    except UserError:
        raise
    except Exception as error:
        if GPU_ONLY in str(error):
            return FAILED, f"{_where(error)}; needs a GPU"
        try:
            attempt.stock()
        except Exception as same:
            return FAILED, _where(error) + (ALIKE if type(same) is type(error) else "")
        return FAILED, _where(error)
    return WORKING, ""


def _where(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{_first_line(error)} ({Path(where.filename).name}:{where.lineno})"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:400]


# One worker process tries configs until it dies or is killed; the next one goes on.


def work(framework: str, arch: str, memory: int, done: Mapping[str, tuple[str, str]], line: Connection) -> None:
    """Try the configs whose names come in; send back outcome, reason and the model's hash."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    zoo = FRAMEWORKS[framework]()
    known = dict(done)
    while (name := line.recv()) is not None:
        model = ""
        torch.manual_seed(0)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                attempt = zoo.attempt(name, Arch.parse(arch))
                model = attempt.model
                outcome, reason = known.get(model) or _outcome(attempt)
        except NotTried as error:
            outcome, reason = error.args
        except UserError as error:
            outcome, reason = REFUSED, str(error)
        except Exception as error:
            outcome, reason = FAILED, _where(error)
        if model:
            known[model] = (outcome, reason)
        line.send((outcome, reason, model))


def try_configs(
    framework: str, names: Sequence[str], arch: str, seconds: float, memory: int, results: dict[str, Any]
) -> Iterator[str]:
    """Try configs one after the other, with a limit of time and memory each; yields each name as it is done."""
    context = multiprocessing.get_context("spawn")
    worker = line = None
    for name in names:
        if worker is None or not worker.is_alive():
            done = {each["model"]: (each["outcome"], each["reason"]) for each in results.values() if each["model"]}
            line, theirs = context.Pipe()
            worker = context.Process(target=work, args=(framework, arch, memory, done, theirs), daemon=True)
            worker.start()
            theirs.close()
        start = time.monotonic()
        line.send(name)
        try:
            outcome, reason, model = line.recv() if line.poll(seconds) else (FAILED, f"over {seconds:g} s", "")
        except (EOFError, ConnectionError):
            outcome, reason, model = FAILED, f"the process died (memory limit {memory >> 30} GiB?)", ""
        if reason.startswith("over "):
            worker.kill()
            worker.join()
        elapsed = round(time.monotonic() - start, 2)
        results[name] = {"outcome": outcome, "reason": reason, "model": model, "seconds": elapsed}
        yield name
    if worker is not None and worker.is_alive():
        line.send(None)
        worker.join()


def summary(framework: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures of a framework as text, refusals and failures grouped by reason."""
    counts = Counter(each["outcome"] for each in results.values())
    tried = sum(counts[outcome] for outcome in (WORKING, REFUSED, FAILED))
    alike = sum(each["reason"].endswith(ALIKE) for each in results.values())
    models = len({each["model"] for each in results.values() if each["outcome"] == WORKING})
    lines = [
        f"{framework}: {len(results)} configs; {counts[NO_MODEL]} without a model, {counts[UNREADABLE]} unreadable, "
        f"{counts[OTHER]} with another backbone",
        f"plain ResNet tried {tried}, working {counts[WORKING]} ({models} different models), "
        f"refused {counts[REFUSED]}, failed {counts[FAILED]} ({alike} of them alike with their own ResNet)",
    ]
    for outcome in (REFUSED, FAILED, UNREADABLE, OTHER):
        reasons: dict[str, list[str]] = {}
        for name, each in results.items():
            if each["outcome"] == outcome:
                reasons.setdefault(each["reason"], []).append(name)
        for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1])):
            shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            lines.append(f"  {outcome} {len(names)}: {reason}" + ("" if outcome == OTHER else f"  [{shown}]"))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", choices=list(FRAMEWORKS), nargs="+", default=list(FRAMEWORKS))
    parser.add_argument("--only", default="*", help="pattern of config names, such as 'mask_rcnn/*'")
    parser.add_argument("--limit", type=int, help="try at most this many configs that are not done yet")
    parser.add_argument("--arch", default=ARCH, help="architecture that takes the place of the ResNets")
    parser.add_argument("--seconds", type=float, default=120, help="limit per config")
    parser.add_argument("--memory", type=int, default=8, help="limit per config in GiB")
    parser.add_argument("--again", choices=(FAILED, REFUSED), nargs="+", default=[], help="outcomes to try again")
    parser.add_argument("--out", type=Path, default=Path("runs/config_coverage.json"), help="results, to go on from")
    arguments = parser.parse_args()
    found = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    for framework in arguments.framework:
        results = found.setdefault(framework, {})
        for name in [name for name, each in results.items() if each["outcome"] in arguments.again]:
            del results[name]
        wanted = [name for name in FRAMEWORKS[framework]().names() if fnmatch.fnmatch(name, arguments.only)]
        todo = [name for name in wanted if name not in results][: arguments.limit]
        limits = (arguments.seconds, arguments.memory << 30)
        for name in try_configs(framework, todo, arguments.arch, *limits, results):
            each = results[name]
            print(f"{each['seconds']:7.1f} s  {each['outcome']:<14} {name}  {each['reason'][:160]}", flush=True)
            write_whole(arguments.out, lambda path: path.write_text(json.dumps(found, indent=1) + "\n"))
        print(summary(framework, {name: each for name, each in results.items() if name in wanted}))


if __name__ == "__main__":
    main()
