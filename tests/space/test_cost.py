import numpy as np
import pytest
import torch
from fvcore.nn import FlopCountAnalysis

from data_plugin import Arch, SearchSpace, UserError
from data_plugin.backbones import DATAResNet, DynamicResNet
from data_plugin.space import cost

DATA = SearchSpace.data()


@pytest.mark.parametrize(
    ("width", "depth", "giga", "million"),
    [
        ((32, 48, 96, 192, 512), (3, 2, 17, 3), "3.69", "25.72"),
        ((32, 64, 96, 192, 640), (4, 6, 21, 4), "5.92", "43.45"),
        ((64, 80, 96, 192, 640), (3, 6, 27, 3), "6.58", "40.35"),
        ((48, 48, 96, 192, 384), (2, 2, 13, 2), "2.69", "14.77"),
        ((64, 64, 128, 192, 384), (2, 2, 25, 2), "4.69", "22.80"),
        ((64, 80, 160, 320, 640), (4, 6, 29, 4), "15.51", "84.78"),
    ],
)
def test_the_papers_networks(width, depth, giga, million):
    arch = Arch.from_paper(width, depth)
    assert f"{cost.flops(arch) / 1e9:.2f}" == giga
    assert f"{cost.params(arch) / 1e6:.2f}" == million


def test_the_papers_groups():
    flops = cost.flops(DATA.table)
    counts = [int(((flops >= g * 1e9) & (flops < (g + 1) * 1e9)).sum()) for g in range(1, 8)]
    assert counts == [34, 1_986, 8_597, 14_504, 15_651, 12_033, 9_142]
    assert f"{flops.min() / 1e9:.2f}" == "1.67"


def test_the_table_holds_what_single_networks_cost():
    table = SearchSpace.micro().table
    chosen = np.random.default_rng(0).choice(len(table), 50)
    flops, params = cost.flops(table, (96, 130)), cost.params(table)
    archs = list(SearchSpace.micro())
    for row in chosen:
        assert flops[row] == cost.flops(archs[row], (96, 130))
        assert params[row] == cost.params(archs[row])


@pytest.mark.parametrize(
    "arch", [DATA.smallest, Arch.resnet50(), Arch.from_paper((48, 80, 96, 256, 384), (4, 2, 7, 3))]
)
@pytest.mark.parametrize("size", [(224, 224), (65, 97)])
@pytest.mark.parametrize("strides", [(1, 2, 2, 2), (1, 2, 1, 1)])
def test_equals_fvcores_count_of_the_built_network(arch, size, strides):
    network = DATAResNet(arch, strides=strides).eval()
    counter = FlopCountAnalysis(network, torch.zeros(1, 3, *size))
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    assert cost.flops(arch, size, strides) == counter.by_operator()["conv"]
    assert cost.params(arch) == sum(p.numel() for p in network.parameters())


def test_the_supernet_has_the_largest_networks_parameters():
    supernet = DynamicResNet(SearchSpace.micro())
    assert cost.params(SearchSpace.micro().largest) == sum(p.numel() for p in supernet.parameters())


def test_an_image_without_pixels_is_refused():
    with pytest.raises(UserError, match="input size"):
        cost.flops(Arch.resnet50(), 0)
