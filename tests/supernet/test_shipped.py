"""A supernet in half precision is the same supernet nearly, and one that was changed is not loaded."""

import pytest
import torch
from samples import SPACE, random_supernet, random_supernet_file

from data_plugin import UserError
from data_plugin.supernet.checkpoint import load_supernet, save_supernet
from data_plugin.supernet.shipped import pack, shipped_supernet


@pytest.fixture
def packed(tmp_path):
    source = random_supernet_file(tmp_path / "source.safetensors")
    return source, pack(source, tmp_path / "shipped")


def test_a_packed_supernet_computes_nearly_what_it_did_in_half_the_space(packed):
    source, path = packed
    assert path.stat().st_size < 0.6 * source.stat().st_size
    whole, half = load_supernet(source), load_supernet(shipped_supernet(path.parent))
    assert half.info == whole.info
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for branch in ("query", "key"):
        for arch in (SPACE.smallest, SPACE.largest):
            ours, theirs = (getattr(supernet, branch)(images, arch)[-1] for supernet in (half, whole))
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02 * theirs.abs().max().item())


def test_a_supernet_that_was_changed_or_is_missing_is_refused(packed):
    _, path = packed
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)
    with pytest.raises(UserError, match="is damaged"):
        load_supernet(shipped_supernet(path.parent))
    path.unlink()
    with pytest.raises(UserError, match="is missing, the supernet that comes with the package"):
        shipped_supernet(path.parent)


def test_weights_beyond_half_precision_are_refused(tmp_path):
    supernet = random_supernet()
    supernet.query.bn1.running_var[0] = 1e6
    save_supernet(tmp_path / "source.safetensors", supernet)
    with pytest.raises(UserError, match=r"query\.bn1\.running_var"):
        pack(tmp_path / "source.safetensors", tmp_path / "again")
    assert not (tmp_path / "again" / "supernet.safetensors").exists()
