"""OpenMMLab's networks as TorchScript, traced, exported and compiled, against MMDetection's own with their weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("mmdet", reason="MMDetection is not installed")

from mmdet.models.backbones import ResNet
from mmdet.models.roi_heads.shared_heads.res_layer import ResLayer

from data_plugin import Arch
from data_plugin.backbones.mmdet.shared_head import DATAResLayer
from data_plugin.backbones.openmmlab.resnet import OpenMMLabResNet

FORMS: dict[str, Callable[[nn.Module, Tensor], Callable[..., Any]]] = {
    "scripted": lambda network, images: torch.jit.script(network),
    "traced": lambda network, images: torch.jit.trace(network, images),
    "exported": lambda network, images: torch.export.export(network, (images,)).module(),
    "compiled": lambda network, images: torch.compile(network, backend="aot_eager", fullgraph=True),
}


def randomise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + (0.0 if "bias" in name else 0.75))


@pytest.mark.parametrize("form", FORMS)
def test_backbones_equal_mmdetections(form: str) -> None:
    stock, ours = ResNet(50), OpenMMLabResNet(Arch.resnet50(), with_cp=True)
    randomise(stock)
    ours.load_state_dict(stock.state_dict())
    stock.eval()
    images = torch.rand(1, 3, 64, 64)
    found = FORMS[form](ours.eval(), images)(images)
    for one, other in zip(found, stock(images), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("form", FORMS)
def test_c4_heads_equal_mmdetections(form: str) -> None:
    stock, ours = ResLayer(50), DATAResLayer(Arch.resnet50())
    randomise(stock)
    ours.load_state_dict(stock.state_dict())
    stock.eval()
    regions = torch.rand(3, 1024, 8, 8)
    torch.testing.assert_close(FORMS[form](ours.eval(), regions)(regions), stock(regions))


@pytest.mark.parametrize("extra_norm", [False, True])
def test_c4_heads_with_another_norm_behind_are_scripted(extra_norm: bool) -> None:
    head = DATAResLayer("d1-1-1-1_w4-4-4-8-8", extra_norm=extra_norm).eval()
    regions = torch.rand(3, 32, 8, 8)
    assert torch.equal(torch.jit.script(head)(regions), head(regions))
