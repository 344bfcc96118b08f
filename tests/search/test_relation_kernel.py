"""The relation's Triton kernel, run by Triton's interpreter on the CPU and compiled for GPUs that are not there."""

import json
import os
import subprocess
import sys
import warnings

import pytest
import torch

from data_plugin.search.distances import relation
from data_plugin.search.distances.relation import TeacherRelation, draw_rows

triton = pytest.importorskip("triton", reason="Triton is not installed; PyTorch's CUDA wheels bring it")


def print_estimates() -> None:
    """Print distances and variances of several maps by the kernel and by PyTorch, for a process that interprets."""
    found = []
    torch.manual_seed(0)
    for channels, size in (((40, 17), (9, 8)), ((64, 96), (13, 11)), ((8, 8), (2, 2))):
        teacher, student = (torch.randn(2, each, *size) for each in channels)
        student[0, :, 1, 1] = 0  # a column without a direction
        for rows in (None, draw_rows(["a", "b"], size[0] * size[1], 20, 0, "C5")):
            both = (TeacherRelation(teacher, rows=rows, kernel=kernel).estimate(student) for kernel in (True, False))
            found.append([torch.stack(estimate).tolist() for estimate in both])
    print(json.dumps(found))


def test_kernel_gives_the_distances_and_variances_of_pytorch():
    # Triton reads whether to interpret when it is imported.
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    ended = subprocess.run([sys.executable, __file__], env=environment, stdout=subprocess.PIPE, check=True)
    found = json.loads(ended.stdout)
    assert len(found) == 6
    for kernel, pytorch in found:
        torch.testing.assert_close(torch.tensor(kernel), torch.tensor(pytorch), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("precision", ["tf32", "tf32x3"])
@pytest.mark.parametrize("capability", [80, 90])
def test_kernel_compiles_for_gpus_and_multiplies_on_their_tensor_cores(capability, precision):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from data_plugin.search.distances.relation_kernel import _cross_entropies as kernel

    types = dict.fromkeys(("teacher", "student", "found"), "*fp32") | {"drawn": "*i64", "highest": "fp32"}
    constants = {"precision": precision, "ROWS": 64, "OTHERS": 64, "CHUNK": 32}
    signature = {
        name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.signature.parameters
    }
    compiled = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", capability, 32))
    assert compiled.asm["cubin"]
    assert ("mma.sync" if capability == 80 else "wgmma") in compiled.asm["ptx"]


@pytest.mark.cuda
@pytest.mark.parametrize(("channels", "size"), [((40, 17), (9, 8)), ((256, 96), (50, 68))])
def test_kernel_gives_the_distances_of_pytorch_on_a_gpu(channels, size, cuda):
    teacher, student = (torch.randn(2, each, *size) for each in channels)
    kernel = cuda.type == "cuda"  # the interpreter has a test of its own
    for rows in (None, draw_rows(["a", "b"], size[0] * size[1], 20, 0, "C5")):
        there = None if rows is None else rows.to(cuda)
        found = TeacherRelation(teacher.to(cuda), rows=there, kernel=kernel).estimate(student.to(cuda))
        expected = TeacherRelation(teacher, rows=rows, kernel=False).estimate(student)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-3, atol=1e-5)


def test_the_faster_way_is_taken_and_one_that_fails_or_is_wrong_is_not(monkeypatch):
    student = torch.ones(2, 3)

    def wrong(student):
        return student * 1.1

    def failing(student):
        raise RuntimeError("no C compiler")

    seconds = {}
    monkeypatch.setattr(relation, "_timed", lambda way, student: (way(student), seconds.get(way, 1.0)))
    fast, slow = (lambda student: student * 1), (lambda student: student * 1)
    seconds[fast] = 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert relation._is_faster(fast, slow, student)
        assert not relation._is_faster(slow, fast, student)
    with pytest.warns(UserWarning, match="is wrong here"):
        assert not relation._is_faster(wrong, slow, student)
    with pytest.warns(UserWarning, match="does not run here.*no C compiler"):
        assert not relation._is_faster(failing, slow, student)


if __name__ == "__main__":
    print_estimates()
