import os
import socket
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import SPACE, random_batches

from data_plugin import UserError
from data_plugin.backbones import DynamicResNet
from data_plugin.images.batch import ImageBatches
from data_plugin.search.resume import PartialSearch
from data_plugin.search.searcher import SearchResult, search
from data_plugin.utils.ranks import from_all, from_first, joined_ranks, rank, rank_count

IMAGES = ([(64, 64)], [(64, 96)] * 2, [(96, 64)], [(64, 64)], [(64, 64)])


def run_search(partial: PartialSearch | None = None) -> tuple[SearchResult, list[int]]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    query, key = DynamicResNet(SPACE), DynamicResNet(SPACE)
    asked: list[int] = []

    class Watched(ImageBatches):
        def only(self, indices):
            asked.extend(indices)
            return super().only(indices)

    drawn = random_batches(*IMAGES)
    data = Watched(drawn.source, drawn.parts)
    return search(query, key, SPACE.sample(9, seed=2), data, ["C3", "C5"], unfinished=partial), asked


def worker(number: int, count: int, port: int, folder: Path) -> None:
    os.environ.update(RANK=str(number), WORLD_SIZE=str(count), MASTER_ADDR="localhost", MASTER_PORT=str(port))
    with joined_ranks():
        assert (rank(), rank_count()) == (number, count)
        assert from_first(number) == 0
        assert from_all(number) == list(range(count))
        partial = PartialSearch(folder / "partial", {"a": 1}, {}, 2**30)
        found, asked = run_search(partial)
    np.savez(folder / f"{number}.npz", distances=found.distances, images=np.array(found.images), asked=asked)
    (folder / f"{number}.txt").write_text(found.data_hash)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_find_what_one_finds(tmp_path, count):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, (count, port, tmp_path), nprocs=count)
    alone, _ = run_search()
    shares = []
    for number in range(count):
        found = np.load(tmp_path / f"{number}.npz")
        np.testing.assert_allclose(found["distances"], alone.distances, rtol=1e-6)
        assert found["images"].tolist() == list(alone.images)
        assert (tmp_path / f"{number}.txt").read_text() == alone.data_hash
        shares.append(found["asked"].tolist())
    assert sorted(index for share in shares for index in share) == list(range(len(IMAGES)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    # What the processes kept is whole: one process alone resumes from it without measuring anything.
    resumed, asked = run_search(PartialSearch(tmp_path / "partial", {"a": 1}, {}, 2**30))
    assert asked == []
    np.testing.assert_array_equal(resumed.distances, found["distances"])


def test_alone_there_is_nothing_to_join():
    with joined_ranks():
        assert (rank(), rank_count(), from_first("a"), from_all("a")) == (0, 1, "a", ["a"])


def test_slurm_without_a_node_list_says_what_to_set(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "n[1-2]"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="MASTER_ADDR"), joined_ranks():
        pass


def test_slurm_tasks_become_ranks(monkeypatch, tmp_path):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho localhost\necho other\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in {"NTASKS": "2", "PROCID": "1", "LOCALID": "1", "JOB_NODELIST": "n[1-2]", "JOB_ID": "7"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    joined: list[str] = []

    def init_process_group(backend: str, timeout: timedelta) -> None:
        assert timeout > timedelta(days=7), "the slowest process of a search may be days behind"
        joined.extend([backend, *(os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK"))])

    monkeypatch.setattr("torch.distributed.init_process_group", init_process_group)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    before = dict(os.environ)
    try:
        with joined_ranks():
            assert joined == ["gloo", "localhost", "20007", "1", "1"]
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
