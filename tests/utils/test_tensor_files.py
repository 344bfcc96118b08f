import pytest
import torch
from safetensors.torch import save_file

from data_plugin import UserError
from data_plugin.utils.tensor_files import read_tensors, write_pth, write_safetensors


def test_a_truncated_pth_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.rand(1000)}, path)
    assert torch.is_tensor(read_tensors(path)[0]["a"])
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="truncated"):
        read_tensors(path)


TENSORS = {
    "bias": torch.tensor(3.0),
    "weight": torch.randn(5, 7),
    "half": torch.randn(3).half(),
    "count": torch.arange(9),
    "none": torch.empty(0, 4),
}
HEADER = {"info": '{"name": "Bär"}', "format": "pt", "arch": "d1", "hash": "ab" * 32}


def test_a_safetensors_file_is_as_the_library_writes_it_and_each_time_the_same(tmp_path):
    write_safetensors(tmp_path / "ours.safetensors", TENSORS, HEADER)
    save_file(TENSORS, tmp_path / "library.safetensors", metadata=HEADER)
    for name in ("ours", "library"):
        tensors, header = read_tensors(tmp_path / f"{name}.safetensors")
        assert header == HEADER
        torch.testing.assert_close(tensors, TENSORS, rtol=0, atol=0)
    written = set()
    for number in range(10):
        write_safetensors(tmp_path / f"{number}.safetensors", TENSORS, HEADER)
        written.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(written) == 1
    assert len(next(iter(written))) <= (tmp_path / "library.safetensors").stat().st_size + 8


def test_a_pytorch_file_is_the_same_wherever_it_is_written(tmp_path):
    for name in ("one", "another"):
        write_pth(tmp_path / name / f"{name}.pth", TENSORS)
        torch.testing.assert_close(torch.load(tmp_path / name / f"{name}.pth", weights_only=True), TENSORS)
    assert (tmp_path / "one" / "one.pth").read_bytes() == (tmp_path / "another" / "another.pth").read_bytes()
