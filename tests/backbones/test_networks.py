import copy

import pytest
import torch
import torchvision
from samples import SPACE
from torch import nn

from data_plugin import Arch, SearchSpace, UserError
from data_plugin.backbones import DATAResNet, DynamicResNet, extract

OS8 = {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)}
OFF_GRID = Arch(stem=5, width=(7, 9, 11, 23), depth=(2, 1, 2, 1))


@pytest.fixture(scope="module")
def full() -> DynamicResNet:
    torch.manual_seed(0)
    return spread_statistics(DynamicResNet(SearchSpace.data())).eval()


@pytest.fixture
def small() -> DynamicResNet:
    torch.manual_seed(0)
    return spread_statistics(DynamicResNet(SPACE))


def spread_statistics(network: DynamicResNet) -> DynamicResNet:
    """Norm parameters that differ from channel to channel, as in a trained network."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


@pytest.mark.slow
def test_extracted_networks_compute_the_same_bits(full):
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for arch in [*SearchSpace.data().sample(15, seed=0), Arch.resnet50()]:
            network = extract(full, arch)
            for ours, theirs in zip(network(images), full(images, arch), strict=True):
                assert torch.equal(ours, theirs), arch


@pytest.mark.parametrize("arch", [*SPACE.sample(4, seed=0), SPACE.largest, OFF_GRID], ids=str)
@pytest.mark.parametrize("options", [{}, OS8, {**OS8, "contract_dilation": True}])
def test_gradients_and_an_sgd_step_equal_the_extracted_networks(arch, options):
    torch.manual_seed(0)
    supernet = spread_statistics(DynamicResNet(SPACE, **options)).train()
    network = extract(supernet, arch, **options)
    images = torch.rand(2, 3, 64, 80)
    outputs = []
    for model, call in ((supernet, lambda: supernet(images, arch)), (network, lambda: network(images))):
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        features = call()
        sum((feature**2).mean() for feature in features).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        optimiser.step()
        outputs.append((features, gradients, model.state_dict()))
    (shared_features, shared_gradients, shared_state), (features, gradients, state) = outputs
    assert [f.shape for f in features] == [f.shape for f in shared_features]
    for a, b in zip(features, shared_features, strict=True):
        torch.testing.assert_close(a, b)
    assert len(gradients) == len(list(network.parameters()))
    for name, gradient in gradients.items():
        part = tuple(slice(0, n) for n in gradient.shape)
        torch.testing.assert_close(gradient, shared_gradients[name][part])
        outside = shared_gradients[name].clone()
        outside[part] = 0
        assert not outside.any(), name
    for name, value in state.items():
        torch.testing.assert_close(value, shared_state[name][tuple(slice(0, n) for n in value.shape)])


def test_resnet50_is_torchvisions_to_the_bit():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50().eval()
    ours = DATAResNet(Arch.resnet50()).eval()
    body = {name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")}
    assert list(body) == list(ours.state_dict())
    ours.load_state_dict(body)
    images = torch.rand(2, 3, 65, 97)
    with torch.no_grad():
        c5 = ours(images)[-1]
        assert torch.equal(theirs.fc(theirs.avgpool(c5).flatten(1)), theirs(images))


def test_stages_run_alone_and_in_parts(small):
    small.eval()
    arch, images = SPACE.largest, torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = small(images, arch)
        x = small.stem(images, arch.stem)
        for index, feature in enumerate(expected):
            halfway = small.stage(index, x, arch.width[index], 1)
            again = halfway.clone()
            x = small.stage(index, halfway, arch.width[index], arch.depth[index], start=1)
            assert torch.equal(x, feature)
            assert torch.equal(halfway, again)


def test_calls_leave_no_architecture_behind(small):
    small.eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        first = small(images, SPACE.smallest)[-1]
        small(images, SPACE.largest)
        assert torch.equal(small(images, SPACE.smallest)[-1], first)


def test_extracting_copies(small):
    network = extract(small, SPACE.smallest)
    before = small.conv1.weight.clone()
    with torch.no_grad():
        network.conv1.weight.zero_()
    assert torch.equal(small.conv1.weight, before)


def test_what_is_larger_than_the_supernet_is_refused(small):
    for call in (lambda: small(torch.rand(1, 3, 64, 64), Arch.resnet50()), lambda: extract(small, Arch.resnet50())):
        with pytest.raises(UserError, match="does not fit"):
            call()


def both_kinds(**options) -> list[tuple[nn.Module, tuple]]:
    torch.manual_seed(0)
    return [(DynamicResNet(SPACE, **options), (SPACE.smallest,)), (DATAResNet(SPACE.smallest, **options), ())]


@pytest.mark.parametrize("kind", [0, 1])
def test_checkpointing_changes_memory_not_gradients(kind):
    plain, arguments = both_kinds()[kind]
    saving, _ = both_kinds(with_cp=True)[kind]
    images = torch.rand(2, 3, 64, 64)
    for model in (plain, saving):
        sum(f.mean() for f in model(images, *arguments)).backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)


def saved_bytes(model: nn.Module, images: torch.Tensor, *arguments) -> int:
    total = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(images, *arguments)
    return total


@pytest.mark.parametrize("kind", [0, 1])
def test_checkpointing_keeps_fewer_activations(kind):
    plain, arguments = both_kinds()[kind]
    saving, _ = both_kinds(with_cp=True)[kind]
    images = torch.rand(2, 3, 64, 64)
    assert saved_bytes(saving, images, *arguments) < 0.8 * saved_bytes(plain, images, *arguments)


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("frozen_stages", [-1, 0, 2, 4])
def test_frozen_stages_neither_learn_nor_gather_statistics(kind, frozen_stages):
    model, arguments = both_kinds(frozen_stages=frozen_stages)[kind]
    model.eval()
    model.train()
    before = copy.deepcopy(model.state_dict())
    optimiser = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad] or [nn.Parameter(torch.zeros(1))], lr=1.0
    )
    features = sum((f**2).mean() for f in model(torch.rand(2, 3, 64, 64), *arguments))
    if features.requires_grad:
        features.backward()
    optimiser.step()
    frozen = ["conv1.", "bn1.", *(f"layer{i}." for i in range(1, frozen_stages + 1))] if frozen_stages >= 0 else []
    used = set(DATAResNet(SPACE.smallest).state_dict())
    for name, value in model.state_dict().items():
        changed = not torch.equal(value, before[name])
        assert changed == (name in used and not name.startswith(tuple(frozen))), name


def test_norm_eval_keeps_statistics_and_trains_scales():
    model = DATAResNet(SPACE.smallest, norm_eval=True).train()
    model(torch.rand(2, 3, 64, 64))[-1].mean().backward()
    assert torch.equal(model.bn1.running_mean, torch.zeros_like(model.bn1.running_mean))
    assert model.bn1.weight.grad is not None


def test_the_first_block_of_a_stage_keeps_half_its_dilation(small):
    for network in (
        small.with_options(**OS8, contract_dilation=True),
        DATAResNet(SPACE.largest, **OS8, contract_dilation=True),
    ):
        dilations = [[block.conv2.dilation[0] for block in getattr(network, f"layer{stage}")] for stage in (1, 2, 3, 4)]
        assert dilations == [[1, 1], [1, 1], [1, 2, 2], [2, 4]]
    assert small.layer4[1].conv2.dilation == (1, 1)


def test_other_strides_share_the_weights(small):
    small.eval()
    other = small.with_options(**OS8)
    assert not other.training
    assert all(one is another for one, another in zip(small.parameters(), other.parameters(), strict=True))
    assert all(one is another for one, another in zip(small.buffers(), other.buffers(), strict=True))
    images = torch.rand(1, 3, 64, 80)
    with torch.no_grad():
        before = small(images, SPACE.largest)
        found = other(images, SPACE.largest)
        network = extract(small, SPACE.largest, **OS8)
        for one, another in zip(found, network(images), strict=True):
            assert torch.equal(one, another)
        assert found[3].shape[-2:] == (8, 10)
        assert torch.equal(before[3], small(images, SPACE.largest)[3])


def test_features_strides_and_norm_are_chosen():
    images = torch.rand(1, 3, 64, 64)
    model = DATAResNet(SPACE.largest, out_indices=(1, 3), strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
    assert [f.shape for f in model(images)] == [(1, 48, 8, 8), (1, 96, 8, 8)]
    body = DATAResNet(SPACE.largest, out_indices=(2,), num_stages=3)
    assert not hasattr(body, "layer4")
    assert [f.shape for f in body(images)] == [(1, 64, 4, 4)]
    grouped = DATAResNet(SPACE.largest, norm=lambda channels: nn.GroupNorm(2, channels))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in grouped.modules())


@pytest.mark.parametrize(
    "options",
    [{"out_indices": (4,)}, {"out_indices": ()}, {"num_stages": 0}, {"num_stages": 3}, {"frozen_stages": 5}],
)
def test_stages_that_do_not_exist_are_refused(options):
    with pytest.raises(UserError, match="expected"):
        DATAResNet(SPACE.largest, **options)


def test_zero_init_residual_starts_blocks_as_their_shortcuts():
    model = DATAResNet(SPACE.largest, zero_init_residual=True)
    assert not any(block.bn3.weight.any() for block in model.layer1)
