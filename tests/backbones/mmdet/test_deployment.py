"""OpenMMLab's networks as TorchScript, traced, exported and compiled, against MMDetection's own with their weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from samples import used
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils._pytree import tree_leaves

pytest.importorskip("mmdet", reason="MMDetection is not installed")

from mmdet.models.backbones import ResNet
from mmdet.models.roi_heads.shared_heads.res_layer import ResLayer
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DefaultScope

from data_plugin import Arch
from data_plugin.backbones.mmdet.shared_head import DATAResLayer
from data_plugin.backbones.openmmlab.resnet import OpenMMLabResNet
from data_plugin.backbones.openmmlab.swap import replace_resnet
from data_plugin.frameworks.registry import MMDET

FORMS: dict[str, Callable[[nn.Module, Tensor], Callable[..., Any]]] = {
    "scripted": lambda network, images: torch.jit.script(network),
    "traced": lambda network, images: torch.jit.trace(network, images),
    "exported": lambda network, images: torch.export.export(network, (images,)).module(),
    "compiled": lambda network, images: torch.compile(network, backend="aot_eager", fullgraph=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_backbones_equal_mmdetections(form: str) -> None:
    stock, ours = ResNet(50), OpenMMLabResNet(Arch.resnet50(), with_cp=True)
    ours.load_state_dict(used(stock).state_dict())
    stock.eval()
    images = torch.rand(1, 3, 64, 64)
    found = FORMS[form](ours.eval(), images)(images)
    for one, other in zip(found, stock(images), strict=True):
        assert other.std() > 0
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("form", FORMS)
def test_c4_heads_equal_mmdetections(form: str) -> None:
    stock, ours = ResLayer(50), DATAResLayer(Arch.resnet50())
    ours.load_state_dict(used(stock).state_dict())
    stock.eval()
    regions = torch.rand(3, 1024, 8, 8)
    found, expected = FORMS[form](ours.eval(), regions)(regions), stock(regions)
    assert expected.std() > 0
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("extra_norm", [False, True])
def test_c4_heads_with_another_norm_behind_are_scripted(extra_norm: bool) -> None:
    head = DATAResLayer("d1-1-1-1_w4-4-4-8-8", extra_norm=extra_norm).eval()
    regions = torch.rand(3, 32, 8, 8)
    assert torch.equal(torch.jit.script(head)(regions), head(regions))


def both(name: str) -> tuple[nn.Module, nn.Module]:
    """A detector of the model zoo with MMDetection's ResNet and with ours in its place, with the same weights."""
    config = Config.fromfile(MMDET.configs.find(name))
    for resnet in (config.model.backbone, config.model.get("roi_head", {}).get("shared_head", {})):
        resnet.update(style="pytorch", init_cfg=None)
    config.model.test_cfg.update(rpn={**config.model.test_cfg.get("rpn", {}), "max_per_img": 10})
    with DefaultScope.overwrite_default_scope("mmdet"):
        stock = MODELS.build(config.model)
        replace_resnet(config, MODELS)
        ours = MODELS.build(config.model)
    assert isinstance(ours.backbone, OpenMMLabResNet)
    ours.load_state_dict(used(stock).state_dict())
    return stock.eval(), ours.eval()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["traced", "exported", "compiled"])
def test_one_stage_detectors_equal_those_of_mmdetections_resnet(form: str) -> None:
    stock, ours = both("retinanet_r50_fpn_1x_coco")
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        found, expected = (tree_leaves(run(images)) for run in (FORMS[form](ours, images), stock))
    assert len(found) == len(expected) == 10  # classes and boxes at five levels
    for one, other in zip(found, expected, strict=True):
        assert other.std() > 0
        torch.testing.assert_close(one, other)


class TwoStages(nn.Module):
    """A detector from images to what its second stage says of the boxes that the first has chosen."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        sample = DetDataSample(metainfo={"img_shape": tuple(images.shape[2:])})
        said = tree_leaves(self.detector(images, [sample], mode="tensor"))
        return tuple(each for each in said if isinstance(each, Tensor))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_two_stage_detectors_are_compiled_but_not_traced_nor_exported_with_mmdetections_resnet_either() -> None:
    stock, ours = map(TwoStages, both("faster-rcnn_r50-caffe_c4-1x_coco"))
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        found, expected = torch.compile(ours, backend="eager")(images), stock(images)
        assert expected[0].shape == (10, 81)
        for one, other in zip(found, expected, strict=True):
            assert other.std(dim=0).max() > 0  # from box to box
            torch.testing.assert_close(one, other)
        # mmcv computes RoI align in an operator that torch does not know, and a trace goes on without it.
        traced = torch.jit.trace(stock, images, check_trace=False)
        assert {node.kind().split("::")[0] for node in traced.inlined_graph.nodes()} == {"aten", "prim"}
        with pytest.raises(GuardOnDataDependentSymNode):
            FORMS["exported"](stock, images)
