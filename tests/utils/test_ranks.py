import os
from datetime import timedelta

import pytest

from data_plugin import UserError
from data_plugin.utils.ranks import from_all, from_first, joined_ranks, rank, rank_count


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
