"""detectron2's documented ways of deployment, with our networks against its own ResNet with the same weights."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.export import TracingAdapter, scripting_with_instances
from detectron2.modeling import build_backbone, build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from detectron2.utils.testing import assert_instances_allclose, convert_scripted_instances

from data_plugin import Arch
from data_plugin.backbones import detectron2 as adapter

pytestmark = [
    pytest.mark.filterwarnings("ignore:DATAResNet takes the place"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),  # of detectron2's heads
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor"),
]

DETECTORS = {
    "c4": "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
    "fpn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "retinanet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
}
FIELDS = {
    "proposal_boxes": Boxes,
    "objectness_logits": Tensor,
    "pred_boxes": Boxes,
    "scores": Tensor,
    "pred_classes": Tensor,
    "pred_masks": Tensor,
}
NORM = {"weight": 0.9, "bias": -0.1, "running_mean": -0.1, "running_var": 2.0}
"""The least of each tensor of a norm; the variances keep the maps of an untrained ResNet as large as its images."""


def config(name: str) -> CfgNode:
    """A config of the model zoo whose untrained detector finds a few objects; its architecture waits for ours."""
    cfg = model_zoo.get_config(DETECTORS[name])
    options = {
        "MODEL.DATA_RESNET.ARCH": str(Arch.resnet50()),
        "MODEL.DEVICE": "cpu",
        "MODEL.PIXEL_STD": [57.0, 57.0, 57.0],
        "MODEL.WEIGHTS": "",
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
        "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 10,
        "TEST.DETECTIONS_PER_IMAGE": 10,
    }
    cfg.merge_from_list([part for option in options.items() for part in option])
    return cfg


def in_stocks_order(name: str) -> tuple[Any, ...]:
    """What sorts the entries of either kind of ResNet alike: where in the network, then which tensor."""
    for ours, stock in (("conv1", "stem.conv1"), ("bn1", "stem.conv1.norm")):
        if name.split(".")[0] == ours:
            name = name.replace(ours, stock, 1)
    for number in "123":
        name = name.replace(f".bn{number}.", f".conv{number}.norm.")
    for stage in "1234":
        name = name.replace(f"layer{stage}.", f"res{int(stage) + 1}.")
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    return tuple(int(part) if part.isdecimal() else part for part in name.replace("res5.res5", "res5").split("."))


def give_weights(stock: nn.Module, ours: nn.Module) -> None:
    """Load the weights of detectron2's model into ours, after its norms were made to differ from channel to channel."""
    generator = torch.Generator().manual_seed(0)
    for name, value in stock.state_dict().items():
        kind = name.rpartition(".")[2]
        if "norm" in name and kind in NORM:
            value.copy_(NORM[kind] + 0.2 * torch.rand(value.shape, generator=generator))
    found = {name.removeprefix("backbone.").removeprefix("bottom_up."): name for name in ours.state_dict()}
    found = {in_stocks_order(name): full for name, full in found.items() if "num_batches" not in name}
    weights = {
        in_stocks_order(name.removeprefix("backbone.").removeprefix("bottom_up.")): value
        for name, value in stock.state_dict().items()
        if "num_batches" not in name
    }
    assert found.keys() == weights.keys()
    ours.load_state_dict({full: weights[key] for key, full in found.items()}, strict=False)


def both(name: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    stock, ours = build_model(config(name)), build_model(adapter.with_data_resnet(config(name)))
    give_weights(stock, ours)
    return stock.eval(), ours.eval()


def image(height: int = 96, width: int = 128) -> Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(1)).float()


def instances(model: nn.Module, pixels: Tensor) -> Instances:
    """What either kind of detector finds, scripted or not."""
    if hasattr(model, "roi_heads"):
        found = model.inference([{"image": pixels}], do_postprocess=False)[0]
        return found if isinstance(found, Instances) else convert_scripted_instances(found)
    found = model([{"image": pixels}])[0]  # where a RetinaNet is scripted, this lacks the last step
    if isinstance(found, dict):
        return found["instances"]
    return detector_postprocess(convert_scripted_instances(found), *pixels.shape[1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_scripted_detectors_find_what_those_of_detectron2s_resnet_find(name):
    stock, ours = both(name)
    with torch.no_grad():
        scripted = [scripting_with_instances(model, FIELDS) for model in (ours, stock)]
        for pixels in (image(), image(), image(65, 130)):
            found, expected = (instances(model, pixels) for model in scripted)
            assert len(expected) > 0
            assert_instances_allclose(found, expected)
            assert_instances_allclose(found, instances(ours, pixels))


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_traced_detectors_find_what_those_of_detectron2s_resnet_find(name):
    traced, adapters = [], []
    with torch.no_grad():
        for model in both(name):
            adapters.append(TracingAdapter(model, image(64, 64), instances).eval())
            traced.append(torch.jit.trace(adapters[-1], (image(64, 64),)))
        expected, found = (each.outputs_schema(run(image())) for each, run in zip(adapters, traced, strict=True))
    assert len(expected) > 0
    assert_instances_allclose(found, expected, size_as_tensor=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_compiled_detectors_find_what_those_of_detectron2s_resnet_find_uncompiled(name):
    stock, ours = both(name)
    with torch.no_grad():
        found, expected = torch.compile(instances, backend="eager")(ours, image()), instances(stock, image())
    assert len(expected) > 0
    assert_instances_allclose(found, expected)


def saved_and_loaded(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


FORMS: dict[str, Callable[[nn.Module, Tensor], Callable[..., Any]]] = {
    "scripted": lambda network, images: saved_and_loaded(torch.jit.script(network)),
    "traced": lambda network, images: saved_and_loaded(torch.jit.trace(network, images, strict=False)),
    "exported": lambda network, images: torch.export.export(network, (images,)).module(),
    "compiled": lambda network, images: torch.compile(network, backend="aot_eager", fullgraph=True),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["c4", "fpn"])
def test_backbones_and_pyramids_equal_detectron2s_in_every_form(name, form):
    stock = build_backbone(config(name)).eval()
    ours = build_backbone(adapter.with_data_resnet(config(name))).eval()
    give_weights(stock, ours)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        found, expected = FORMS[form](ours, images)(images), stock(images)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert value.std() > 0
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5)
