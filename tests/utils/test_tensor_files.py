import pytest
import torch

from data_plugin import UserError
from data_plugin.utils.tensor_files import read_tensors


def test_a_truncated_pth_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.rand(1000)}, path)
    assert torch.is_tensor(read_tensors(path)[0]["a"])
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="truncated"):
        read_tensors(path)
