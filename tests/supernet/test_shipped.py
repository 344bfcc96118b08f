"""A supernet in half precision is the same supernet nearly, and one that was changed is not loaded."""

import pytest
import torch
from samples import SPACE, random_supernet_file

from data_plugin import UserError
from data_plugin.supernet.checkpoint import load_supernet
from data_plugin.supernet.shipped import pack, shipped_supernet
from data_plugin.utils.tensor_files import read_tensors


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


def test_a_supernet_that_was_changed_or_is_missing_is_refused(packed, tmp_path):
    _, path = packed
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)
    with pytest.raises(UserError, match="was changed since it was packed"):
        shipped_supernet(path.parent)
    (path.parent / "supernet.sha256").unlink()
    with pytest.raises(UserError, match="expected none that is known"):
        shipped_supernet(path.parent)
    path.unlink()
    with pytest.raises(UserError, match="is missing, the supernet that comes with the package"):
        shipped_supernet(path.parent)


def test_weights_beyond_half_precision_are_refused(packed, tmp_path):
    from safetensors.torch import save_file

    source, _ = packed
    tensors, header = read_tensors(source)
    tensors["query.bn1.running_var"][0] = 1e6
    save_file(tensors, source, metadata=dict(header))
    with pytest.raises(UserError, match=r"query\.bn1\.running_var up to 1e\+06"):
        pack(source, tmp_path / "again")
    assert not (tmp_path / "again").exists()
