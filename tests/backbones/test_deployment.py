"""A network as TorchScript, a trace, an exported program and compiled code, against torchvision's with its weights."""

import io
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from samples import SPACE
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import Bottleneck, ResNet

from data_plugin import Arch
from data_plugin.backbones import DATAResNet, DynamicResNet, extract

ARCH = Arch.parse("d1-2-1-1_w64-64-128-256-512")
"""torchvision's widths, which it cannot change, at other depths."""

SIZES = ((2, 3, 65, 97), (2, 3, 65, 97), (2, 3, 65, 97))
"""TorchScript rewrites a graph after it has seen the first calls."""

DYNAMIC = {"x": {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}}


def saved_and_loaded(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


def exported(network: nn.Module, images: Tensor) -> nn.Module:
    program = torch.export.export(network, (images,), dynamic_shapes=DYNAMIC)
    # torch guards a max pooling of any size as one of odd or of even sizes, in torchvision's networks too.
    return program.module(check_guards=False)


FORMS: dict[str, Callable[[nn.Module, Tensor], Callable[..., Any]]] = {
    "scripted": lambda network, images: saved_and_loaded(torch.jit.script(network)),
    "traced": lambda network, images: saved_and_loaded(torch.jit.trace(network, images)),
    "exported": exported,
    "compiled": lambda network, images: torch.compile(network, backend="aot_eager", fullgraph=True),
}


@pytest.fixture(scope="module")
def stock() -> ResNet:
    torch.manual_seed(0)
    network = ResNet(Bottleneck, list(ARCH.depth))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def ours(stock: ResNet, **options: Any) -> DATAResNet:
    network = DATAResNet(ARCH, **options)
    weights = {name: value for name, value in stock.state_dict().items() if name in network.state_dict()}
    network.load_state_dict(weights)
    return network.eval()


def expected(stock: ResNet, indices: Sequence[int], images: Tensor) -> list[Tensor]:
    return list(IntermediateLayerGetter(stock, {f"layer{i + 1}": str(i) for i in indices})(images).values())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "options",
    [{}, {"out_indices": (3, 1), "with_cp": True}, {"out_indices": (2,), "num_stages": 3, "frozen_stages": 1}],
    ids=["all", "two", "one"],
)
def test_outputs_equal_torchvisions_to_the_bit(stock, form, options):
    network = ours(stock, **options)
    deployed = FORMS[form](network, torch.rand(SIZES[0]))
    for size in SIZES:
        images = torch.rand(size)
        with torch.no_grad():
            found = deployed(images)
            reference = expected(stock, sorted(options.get("out_indices", (0, 1, 2, 3))), images)
        assert isinstance(found, tuple)
        assert len(found) == len(reference)
        for one, other in zip(found, reference, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("form", FORMS)
def test_other_sizes_than_the_first_run_too(form):
    network = DATAResNet(SPACE.smallest).eval()
    deployed = FORMS[form](network, torch.rand(2, 3, 64, 96))
    with torch.no_grad():
        for size in ((2, 3, 64, 96), (1, 3, 33, 130)):
            images = torch.rand(size)
            for one, other in zip(deployed(images), network(images), strict=True):
                assert torch.equal(one, other)


@pytest.mark.parametrize("form", ["scripted", "compiled"])
def test_gradients_pass_through(form):
    network, reference = DATAResNet(SPACE.smallest, with_cp=True), DATAResNet(SPACE.smallest)
    reference.load_state_dict(network.state_dict())
    deployed = FORMS[form](network, torch.rand(SIZES[0]))
    images = torch.rand(2, 3, 64, 64)
    for model in (deployed, reference):
        model(images)[-1].square().mean().backward()
    for one, other in zip(deployed.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_frozen_for_inference_it_computes_the_same(stock):
    network, images = ours(stock), torch.rand(1, 3, 64, 64)
    fused = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.script(network)))
    with torch.no_grad():
        for one, other in zip(fused(images), network(images), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)  # convolutions with norms folded in


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="inductor needs a C++ compiler")
def test_compiled_by_inductor_it_computes_the_same():
    network, images = DATAResNet(SPACE.smallest, (0,), num_stages=1).eval(), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for one, other in zip(torch.compile(network, fullgraph=True)(images), network(images), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_network_cut_out_of_a_supernet_is_deployed_alike():
    supernet, images = DynamicResNet(SPACE).eval(), torch.rand(1, 3, 64, 64)
    scripted = torch.jit.script(extract(supernet, SPACE.smallest))
    with torch.no_grad():
        for one, other in zip(scripted(images), supernet(images, SPACE.smallest), strict=True):
            assert torch.equal(one, other)
