import itertools

import pytest
import torch
from samples import SPACE, used

from data_plugin import Arch, SearchSpace, UserError
from data_plugin.backbones import DynamicResNet, RoutedResNet, extract
from data_plugin.backbones.grouped import GroupedConv2d
from data_plugin.space.search_space import SPACES

OFF_GRID = Arch(stem=5, width=(8, 9, 15, 23), depth=(2, 1, 2, 1))
ARCHS = [SPACE.smallest, OFF_GRID, SPACE.largest]
IMAGES = torch.rand(2, 3, 40, 32, generator=torch.Generator().manual_seed(3))


def apart(network: RoutedResNet) -> RoutedResNet:
    """The network with all groups' weights apart."""
    used(network)
    with torch.no_grad():
        for value in network.parameters():
            if value.dim() > 1:
                value.normal_(std=0.1)
    return network


@pytest.fixture
def routed() -> RoutedResNet:
    return apart(RoutedResNet(SPACE, groups=3)).eval()


def paths(network: RoutedResNet) -> list[tuple[int, ...]]:
    return list(itertools.product(range(network.groups), repeat=network.levels))


def maps(network, *call):
    with torch.no_grad():
        return network(IMAGES, *call)


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_with_one_group_it_is_the_plain_supernet():
    plain = used(DynamicResNet(SPACE))
    routed = RoutedResNet(SPACE, groups=1)
    routed.copy_from(plain)
    assert sum(value.numel() for value in routed.parameters()) == sum(value.numel() for value in plain.parameters())
    for training in (False, True):
        plain.train(training), routed.train(training)
        for arch in ARCHS:
            assert same(maps(routed, arch, (0, 0, 0, 0)), maps(plain, arch))
    for name, value in routed.along((0, 0, 0, 0)).state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


def test_a_new_one_has_in_every_sub_net_the_weights_that_a_plain_one_would_have():
    torch.manual_seed(4)
    plain = DynamicResNet(SPACE)
    torch.manual_seed(4)
    routed = RoutedResNet(SPACE, groups=3)
    for path in ((0, 0, 0, 0), (2, 0, 1, 2)):
        assert same(maps(routed.eval(), SPACE.largest, path), maps(plain.eval(), SPACE.largest))


@pytest.mark.parametrize("arch", ARCHS, ids=str)
def test_an_extracted_network_computes_the_same_bits(routed, arch):
    for path in ((0, 0, 0, 0), (2, 1, 0, 1), (0, 2, 2, 2)):
        expected = maps(routed, arch, path)
        assert same(maps(extract(routed, arch, path)), expected)
        assert same(maps(routed.along(path), arch), expected)
        assert [each.shape[1] for each in expected] == list(arch.out_channels)


def test_a_weight_is_the_shared_channels_and_those_of_the_paths_groups(routed):
    # Stage 4 is 24 wide, stage 3 is 16: 21 and 3, 14 and 2, times 4 in the stream between blocks.
    entry = routed.layer4[0].conv1.weight
    rows = [*range(21), *range(21 + 2 * 3, 21 + 3 * 3)]
    columns = [*range(56), *range(56 + 8, 56 + 16)]
    assert entry.shape[:2] == (21 + 3 * 3, 56 + 3 * 8)
    expected = torch.stack([torch.stack([entry[row, column] for column in columns]) for row in rows])
    assert torch.equal(extract(routed, SPACE.largest, (2, 1, 0, 0)).layer4[0].conv1.weight, expected)


def test_every_entry_of_a_path_matters_and_only_from_its_stage_on(routed):
    base = maps(routed, SPACE.largest, (0, 0, 0, 0))
    for level in range(4):
        path = tuple(int(place == level) for place in range(4))
        changed = [not torch.equal(a, b) for a, b in zip(maps(routed, SPACE.largest, path), base, strict=True)]
        assert changed == [stage >= 3 - level for stage in range(4)]


def test_training_a_sub_net_is_training_the_plain_one_and_leaves_the_other_groups_alone():
    routed = apart(RoutedResNet(SPACE, groups=3)).train()
    path = (2, 0, 1, 2)
    plain = routed.along(path)
    before = {name: value.clone() for name, value in routed.state_dict().items()}
    for network, call in ((routed, (SPACE.largest, path)), (plain, (SPACE.largest,))):
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
        sum((each**2).mean() for each in network(IMAGES, *call)).backward()
        optimiser.step()
    for name, value in routed.along(path).state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], msg=name)
    # Its neighbour in all stages shares what is shared; what neither shares with it has not moved.
    other = routed.layer4[1].conv2
    for group in (0, 1):
        rows = slice(21 + 3 * group, 24 + 3 * group)
        assert torch.equal(other.weight[rows], before["layer4.1.conv2.weight"][rows])
    kept = routed.layer4[1].bn2.norm.running_mean[: 2 * 24]
    assert torch.equal(kept, before["layer4.1.bn2.norm.running_mean"][: 2 * 24])
    assert not torch.equal(
        routed.layer4[1].bn2.norm.running_mean[2 * 24 :], before["layer4.1.bn2.norm.running_mean"][2 * 24 :]
    )


def test_opening_groups_leaves_every_sub_net_as_it_was_to_the_bit():
    routed = apart(RoutedResNet(SPACE, groups=2)).eval()
    for level in range(4):
        # So far the later levels' entries are 0 throughout.
        known = {path: maps(routed, SPACE.largest, (*path, *[0] * (4 - level))) for path in paths_of(2, level)}
        routed.open_groups(level)
        for path in paths_of(2, level + 1):
            found = maps(routed, SPACE.largest, (*path, *[0] * (3 - level)))
            assert same(found, known[path[:-1]]), path
        with torch.no_grad():  # as a training does: the groups of this level go their own ways
            for block in routed.blocks(3 - level):
                block.conv2.weight += 0.01 * torch.randn_like(block.conv2.weight)
                block.bn1.norm.running_mean += 0.1 * torch.randn_like(block.bn1.norm.running_mean)
    outputs = [maps(routed, SPACE.largest, path)[-1] for path in paths(routed)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(outputs, 2))


def paths_of(groups, levels):
    return list(itertools.product(range(groups), repeat=levels))


def test_the_optimisers_momentum_opens_with_the_weights():
    routed = apart(RoutedResNet(SPACE, groups=3)).train()
    optimiser = torch.optim.AdamW(routed.parameters())
    sum((each**2).mean() for each in routed(IMAGES, SPACE.largest, (0, 0, 0, 0))).backward()
    optimiser.step()
    routed.open_groups(0, optimiser.state)
    for name in ("exp_avg", "exp_avg_sq"):
        rows = optimiser.state[routed.layer4[1].conv2.weight][name]
        assert rows[21:24].abs().sum() > 0
        for group in (1, 2):
            own = slice(21 + 3 * group, 24 + 3 * group)
            assert torch.equal(rows[own, :21], rows[21:24, :21])
            assert torch.equal(rows[:21, own], rows[:21, 21:24])
            assert torch.equal(rows[own, own], rows[21:24, 21:24])
        scales = optimiser.state[routed.layer4[1].bn1.norm.weight][name].view(3, 24)
        assert torch.equal(scales[1], scales[0])
        assert torch.equal(scales[2], scales[0])


@pytest.mark.parametrize("name", SPACES)
def test_256_sub_nets_take_fewer_than_twice_the_weights_of_one(name):
    space = SPACES[name]()
    with torch.device("meta"):
        plain = sum(value.numel() for value in DynamicResNet(space).parameters())
        routed = RoutedResNet(space)
    stored = sum(value.numel() for value in routed.parameters())
    assert routed.paths == 256
    assert stored < 2 * plain


def test_but_for_what_leads_from_one_group_to_another_of_its_stage_every_weight_is_some_sub_nets():
    routed = RoutedResNet(SPACE, groups=3)
    for one, other in paths_of(3, 2):  # two stages in a row come in every pair of groups
        for layer in routed.modules():
            if isinstance(layer, GroupedConv2d):
                layer.weight_of((one, other, one, other), layer.incoming.width, layer.outgoing.width).sum().backward()
    for name, layer in routed.named_modules():
        if isinstance(layer, GroupedConv2d):
            own, within = 3 * layer.outgoing.own * layer.incoming.own, layer.outgoing.level == layer.incoming.level
            never = 2 * own if within and layer.incoming.groups > 1 else 0
            assert (layer.weight.grad[:, :, 0, 0] == 0).sum() == never, name


def test_levels_are_the_last_stages():
    routed = apart(RoutedResNet(SPACE, groups=3, levels=1)).eval()
    assert (routed.paths, routed.layer3[0].conv2.weight.shape[0], routed.layer4[0].conv2.weight.shape[0]) == (3, 16, 30)
    first, last = (maps(routed, SPACE.largest, path) for path in ((0,), (2,)))
    assert same(first[:3], last[:3])
    assert not torch.equal(first[3], last[3])


def test_recomputing_blocks_gives_the_same_gradients(routed):
    gradients = []
    for with_cp in (False, True):
        network = RoutedResNet(SPACE, groups=3, with_cp=with_cp).train()
        network.load_state_dict(routed.state_dict())
        network(IMAGES, SPACE.largest, (1, 2, 0, 1))[-1].square().mean().backward()
        gradients.append({name: value.grad for name, value in network.named_parameters()})
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, msg=name)


@pytest.mark.parametrize("path", [(0, 0, 0), (0, 0, 0, 3), (-1, 0, 0, 0), ()])
def test_a_sub_net_that_there_is_not_is_refused(routed, path):
    for call in (
        lambda: routed(IMAGES, SPACE.largest, path),
        lambda: routed.along(path),
        lambda: extract(routed, SPACE.largest, path),
    ):
        with pytest.raises(UserError, match=r"there is no sub-net .*expected 4 numbers from 0 to 2, such as 0,0,0,0"):
            call()


def test_what_is_no_supernet_with_groups_is_refused(routed):
    with pytest.raises(UserError, match="does not fit inside"):
        routed(IMAGES, Arch.resnet50(), (0, 0, 0, 0))
    with pytest.raises(UserError, match="without groups has no sub-net"):
        extract(DynamicResNet(SPACE), SPACE.largest, (0, 0, 0, 0))
    with pytest.raises(UserError, match="0 groups"):
        RoutedResNet(SPACE, groups=0)
    with pytest.raises(UserError, match="5 levels were asked for; expected 0 to 4"):
        RoutedResNet(SearchSpace.micro(), levels=5)
