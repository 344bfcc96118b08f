"""A packed supernet has one branch for both, in half precision, and is used as any other is."""

import json

import pytest
import torch
from safetensors.torch import save_file
from samples import SPACE, random_batches, random_supernet
from torch import nn

from data_plugin import SearchSpace, UserError
from data_plugin.search.searcher import Searcher
from data_plugin.supernet.checkpoint import Supernet, load_supernet, save_supernet
from data_plugin.supernet.foreign_weights import read_backbone
from data_plugin.supernet.pack import pack
from data_plugin.tools.convert_checkpoint import main
from data_plugin.utils.tensor_files import read_tensors

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def trained(space: SearchSpace = SPACE) -> Supernet:
    """A supernet as a distillation leaves it: the key branch has never seen an image, so it has no statistics."""
    supernet = random_supernet(space)
    for module in supernet.query.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.num_batches_tracked.fill_(7)
    heads = {f"{branch}.0.weight": torch.randn(3, 4) for branch in ("query", "key")}
    heads |= {f"{branch}.1.running_mean": torch.randn(3) for branch in ("query", "key")}
    return Supernet(supernet.info, supernet.query, supernet.key, {**heads, "predictor.0.weight": torch.randn(2, 3)})


def one_for_both(supernet: Supernet) -> dict[str, torch.Tensor]:
    """What either branch shall be: the key branch's weights, the query branch's statistics."""
    query = supernet.query.state_dict()
    return {name: query[name] if name.endswith(STATISTICS) else v for name, v in supernet.key.state_dict().items()}


def halved(value: torch.Tensor) -> torch.Tensor:
    return value.half().float() if value.is_floating_point() else value


@pytest.fixture
def source(tmp_path):
    save_supernet(tmp_path / "source.safetensors", trained())
    return tmp_path / "source.safetensors"


@pytest.fixture
def packed(source, tmp_path):
    return pack(source, tmp_path / "packed").path


def test_the_file_holds_one_branch_in_half_precision_and_says_so(source, packed):
    tensors, header = read_tensors(packed)
    whole = load_supernet(source)
    expected = {f"shared.{name}": value for name, value in one_for_both(whole).items()}
    expected |= {
        "heads.shared.0.weight": whole.heads["key.0.weight"],
        "heads.shared.1.running_mean": whole.heads["query.1.running_mean"],
        "heads.predictor.0.weight": whole.heads["predictor.0.weight"],
    }
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(tensors[name], value.half() if value.is_floating_point() else value), name
    assert json.loads(header["data_plugin.supernet"])["branches"] == "one"
    assert json.loads(read_tensors(source)[1]["data_plugin.supernet"])["branches"] == "both"


def test_both_branches_and_their_heads_are_read_from_it(source, packed):
    whole, found = load_supernet(source), load_supernet(packed)
    assert found.info == whole.info
    for branch in (found.query, found.key):
        for name, value in one_for_both(whole).items():
            assert torch.equal(branch.state_dict()[name], halved(value)), name
    assert found.heads.keys() == whole.heads.keys()
    for name, theirs in (("0.weight", "key.0.weight"), ("1.running_mean", "query.1.running_mean")):
        for branch in ("query", "key"):
            assert torch.equal(found.heads[f"{branch}.{name}"], halved(whole.heads[theirs]))
    assert torch.equal(found.heads["predictor.0.weight"], halved(whole.heads["predictor.0.weight"]))
    save_supernet(packed, found)  # no two of its tensors are one


@pytest.mark.parametrize("norm", ["batch", "recalibrated", "running"])
def test_a_search_in_it_is_one_in_a_file_of_both_branches_with_its_weights(source, packed, tmp_path, norm):
    whole = load_supernet(source)
    state = {name: halved(value) for name, value in one_for_both(whole).items()}
    whole.query.load_state_dict(state)
    whole.key.load_state_dict(state)
    save_supernet(tmp_path / "both.safetensors", whole)
    archs, images = [*SPACE.sample(5, seed=0), SPACE.largest], random_batches([(64, 64)] * 3, [(64, 64)] * 3)
    ours, theirs = (
        Searcher(load_supernet(path), ["C4", "C5"], norm=norm).measure(archs, images)
        for path in (packed, tmp_path / "both.safetensors")
    )
    assert ours.archs == theirs.archs
    assert (ours.scores == theirs.scores).all()
    assert ours.entropy == theirs.entropy
    by_arch = dict(zip(ours.archs, ours.scores, strict=True))
    assert by_arch.pop(SPACE.largest) == pytest.approx(0, abs=1e-6)  # the teacher itself
    assert min(by_arch.values()) > 1e-3


def test_half_precision_changes_features_by_rounding_alone(source, packed):
    """A weight is off by one part in 2048 at most, and so are features, nearly, after a dozen layers."""
    whole, found = load_supernet(source), load_supernet(packed)
    whole.key.load_state_dict(one_for_both(whole))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for arch in (SPACE.smallest, SPACE.largest):
        for ours, theirs in zip(found.query(images, arch), whole.key(images, arch), strict=True):
            assert ours.dtype == torch.float32
            assert 0 < (ours - theirs).norm() / theirs.norm() < 4 / 2048


def test_a_mini_supernet_with_the_heads_of_a_distillation_fits_into_12_mb(tmp_path):
    pytest.importorskip("lightly", reason="heads need lightly")
    from data_plugin.pretrain.recipe import read_recipe

    supernet = random_supernet(SearchSpace.mini())
    method = read_recipe("micro_distill").build_method(SearchSpace.mini().largest.out_channels[-1])
    save_supernet(tmp_path / "s.safetensors", Supernet(supernet.info, supernet.query, supernet.key, method.heads()))
    path = pack(tmp_path / "s.safetensors", tmp_path / "packed").path
    assert path.stat().st_size < 12e6
    assert path.stat().st_size < 0.26 * (tmp_path / "s.safetensors").stat().st_size


def test_what_starts_from_a_backbone_finds_the_one_branch(source, packed):
    found, whole = read_backbone(packed), load_supernet(source)
    assert found.arch == SPACE.largest
    for name, value in one_for_both(whole).items():
        assert torch.equal(found.weights[name], halved(value).float()), name
    assert found.left_out == {"heads.": 3}


def test_a_file_that_was_changed_is_refused(packed):
    whole, (tensors, header) = packed.read_bytes(), read_tensors(packed)
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    packed.write_bytes(flipped)
    for read in (load_supernet, read_backbone):
        with pytest.raises(UserError, match=r"is damaged: .*; copy it again"):
            read(packed)
    other = header["data_plugin.supernet"].replace('"branches": "one"', '"branches": "three"')
    save_file(tensors, packed, metadata={**header, "data_plugin.supernet": other})
    with pytest.raises(UserError, match=r"has a header that cannot be read \(branches 'three'\)"):
        load_supernet(packed)
    packed.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="truncated"):
        load_supernet(packed)


def test_weights_beyond_half_precision_are_refused(source, tmp_path):
    supernet = load_supernet(source)
    supernet.query.bn1.running_var[0] = 1e6
    save_supernet(source, supernet)
    with pytest.raises(UserError, match=r"ends at 65504: shared\.bn1\.running_var has a value of 1e\+06"):
        pack(source, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_the_tool_packs_once(source, tmp_path, capsys):
    arguments = ["pack", str(source), "--out", str(tmp_path / "packed")]
    assert main(arguments) == 0
    supernet, said = load_supernet(source), capsys.readouterr().out
    pairs = list(zip(supernet.query.parameters(), supernet.key.parameters(), strict=True))
    apart = sum((query - key).square().sum().item() for query, key in pairs)
    length = sum(key.square().sum().item() for _, key in pairs)
    assert "supernet.safetensors: 0." in said
    assert f" {100 * (apart / length) ** 0.5:.2f}% of their length" in said
    assert load_supernet(tmp_path / "packed" / "supernet.safetensors").info == load_supernet(source).info
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert main(["pack", str(tmp_path / "none.safetensors"), "--out", str(tmp_path / "other")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit, match="0"):
        main(["pack", "--help"])
