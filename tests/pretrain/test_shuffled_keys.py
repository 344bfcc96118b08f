"""Shuffling batch norm under two processes that talk over gloo, against one that does the same image by image."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from processes import in_processes
from samples import SPACE
from torch.utils._pytree import tree_leaves

from data_plugin import Arch, UserError
from data_plugin.pretrain.recipe import Recipe, read_recipe

pytest.importorskip("lightly", reason="pre-training needs lightly")
pytest.importorskip("lightning", reason="pre-training needs lightning")

from data_plugin.pretrain.output_folder import SUPERNET
from data_plugin.pretrain.run import pretrain_supernet
from data_plugin.pretrain.shuffled_keys import Shuffle
from data_plugin.pretrain.step import SupernetTraining
from data_plugin.pretrain.views import Batch
from data_plugin.supernet.checkpoint import load_supernet
from data_plugin.tools.pretrain import main

PROCESSES = 2
SETTINGS = {
    "mocov2": {"queue": 16, "hidden": 24, "dim": 8, "batch_norm": True},
    "byol": {"hidden": 24, "dim": 8},
    "ressl": {"queue": 16, "hidden": 24, "dim": 8, "batch_norm": True},
    "densecl": {"queue": 16, "hidden": 24, "dim": 8, "batch_norm": True},
}
"""Of methods whose heads have batch norms, so that it matters what passes through the heads together."""


def recipe(method: str) -> Recipe:
    values = {"epochs": 1, "batch_size": 8, "image_size": 40, "lr": 0.1, "warmup": 0.0, "momentum": 0.9}
    values |= {"weight_decay": 1e-4, "key_momentum": 0.9, "method": method, "settings": SETTINGS[method]}
    return Recipe.from_json(values | {"norm_statistics": "shuffled"})


def exchange(path):
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    found = []
    for whole, order in torch.load(path):
        shuffled = Shuffle(order)(whole.chunk(PROCESSES)[rank])
        found.append((shuffled, Shuffle(order).back(shuffled)))
    torch.save((found, Shuffle.draw(5, seed=(3, 1)).order), f"{path}-{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_images_come_where_the_order_says_and_go_back(tmp_path):
    count = 3 * PROCESSES
    orders = [torch.arange(count), torch.arange(count).flip(0), torch.arange(count).roll(3)]
    orders += [torch.from_numpy(np.random.default_rng(seed).permutation(count)) for seed in range(5)]
    shapes = [(count, 3, 4, 5), (count, 2), (count,)]
    cases = [(torch.randn(shapes[index % 3]), order) for index, order in enumerate(orders)]
    cases.append((cases[0][0].contiguous(memory_format=torch.channels_last), orders[-1]))
    torch.save(cases, tmp_path / "cases")
    in_processes(tmp_path, PROCESSES, exchange, tmp_path / "cases")
    ranks = [torch.load(tmp_path / f"cases-{rank}") for rank in range(PROCESSES)]
    for case, (whole, order) in enumerate(cases):
        shuffled, back = (torch.cat([found[case][part] for found, _ in ranks]) for part in (0, 1))
        for place, image in enumerate(order.tolist()):
            assert torch.equal(shuffled[place], whole[image])
        assert torch.equal(back, whole)
    assert torch.equal(ranks[0][1], ranks[1][1])
    assert ranks[0][1].sort().values.tolist() == list(range(10))


def keep_targets(path):
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    for name, views in torch.load(path).items():
        torch.manual_seed(0)
        training = SupernetTraining(SPACE, recipe(name), steps=2, seed=4).double().train()
        training.log = training.log_dict = lambda *args, **kwargs: None

        def remember(targets, name=name):
            torch.save(tuple(targets) if isinstance(targets, tuple) else targets, f"{path}-{name}-{rank}")

        training.method.remember = remember
        training.training_step(Batch([view.chunk(PROCESSES)[rank] for view in views], []), 7)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_keys_are_those_of_a_naive_shuffle_of_the_whole_batch_in_its_own_order(tmp_path):
    views = [torch.randn(8, 3, 40, 40, dtype=torch.float64) for _ in range(2)]
    torch.save(dict.fromkeys(SETTINGS, views), tmp_path / "batch")
    in_processes(tmp_path, PROCESSES, keep_targets, tmp_path / "batch")
    for name in SETTINGS:
        torch.manual_seed(0)
        training = SupernetTraining(SPACE, recipe(name), steps=2, seed=4).double().train()
        order = np.random.default_rng((4, 7, 1)).permutation(8)
        expected = [None] * 8
        for process in range(PROCESSES):
            images = order[4 * process : 4 * process + 4]
            with torch.no_grad():
                maps = [training.key(views[view][images], SPACE.largest)[-1] for view in training.method.key_views]
                leaves = tree_leaves(training.method.targets(maps))
            for place, image in enumerate(images):
                expected[image] = [leaf[place] for leaf in leaves]
        for rank in range(PROCESSES):
            found = torch.load(tmp_path / f"batch-{name}-{rank}")
            leaves = tree_leaves(found)
            for place in range(4):
                for one, other in zip(leaves, expected[4 * rank + place], strict=True):
                    torch.testing.assert_close(one[place], other, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for index in range(8):
        pixels = np.random.default_rng(index).integers(0, 256, (44, 44, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


COLLECTIVES = ("all_gather", "all_reduce", "all_to_all_single")
SMALL = ["settings.queue=16", "settings.batch_norm=false"]


def count_calls(images, out, statistics):
    calls, archs = [], []

    def counted(name):
        whole = getattr(torch.distributed, name)

        def call(*args, **kwargs):
            calls.append(name)
            return whole(*args, **kwargs)

        setattr(torch.distributed, name, call)

    for name in COLLECTIVES:
        counted(name)
    whole, log = SupernetTraining.training_step, SupernetTraining._log

    def training_step(self, batch, batch_idx):
        archs.extend(self.networks(self.global_step))
        calls.clear()
        loss = whole(self, batch, batch_idx)
        loss.register_hook(lambda gradient: calls.append("backward"))
        return loss

    def silent(self, loss, health):  # what is logged is exchanged too
        before = len(calls)
        log(self, loss, health)
        del calls[before:]

    def count(self, optimizer):
        print("[{} {} {}]".format(*map(calls.count, COLLECTIVES)))

    SupernetTraining.training_step = training_step
    SupernetTraining._log = silent
    SupernetTraining.on_before_optimizer_step = count
    space = out.with_suffix(".json")
    space.write_text(json.dumps(SPACE.to_json()))
    arguments = ["--data", images, "--out", out, "--space", space, "--recipe", "micro", "--steps", 1]
    arguments += [
        "--batch-size",
        8,
        "--device",
        "cpu",
        "--workers",
        0,
        "--norm-statistics",
        statistics,
        "--checkpoint-every",
        1,
        "--opts",
        *SMALL,
    ]
    assert main([str(each) for each in arguments]) == 0
    print("archs", *archs, "end")


def norms(arch: Arch) -> int:
    return 1 + sum(3 * depth + 1 for depth in arch.depth)


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """A folder with a step of two processes of either kind, and what these printed."""
    folder = tmp_path_factory.mktemp("trained")
    kinds = ("synced", "shuffled")
    return folder, {kind: in_processes(folder, PROCESSES, count_calls, images, folder / kind, kind) for kind in kinds}


@pytest.mark.slow
def test_a_step_talks_a_few_times_where_synchronised_norms_talk_in_every_norm(trained):
    counts = {}
    for kind, said in trained[1].items():
        found = {tuple(map(int, each)) for each in re.findall(r"\[(\d+) (\d+) (\d+)\]", said)}
        assert len(found) == 1
        counts[kind] = found.pop()
        archs = said.split("archs ")[1].split(" end")[0].split()
    assert len(archs) == 3
    queries = sum(norms(Arch.parse(arch)) for arch in archs)
    # Forwards of the key and the queries, and the keys for the queue; backwards of the queries.
    assert counts["synced"] == (norms(SPACE.largest) + queries + 1, queries, 0)
    assert counts["shuffled"] == (1, 0, 2)


@pytest.mark.slow
def test_processes_with_shuffled_keys_train_one_supernet_and_are_as_many_where_they_go_on(trained, images, monkeypatch):
    folder, said = trained
    assert said["shuffled"].count("supernet: ") == 1
    assert load_supernet(folder / "shuffled" / SUPERNET).info.training["recipe"]["norm_statistics"] == "shuffled"
    again = read_recipe("micro", ["batch_size=8", "norm_statistics=shuffled", *SMALL])
    monkeypatch.setattr("data_plugin.pretrain.run.launched_ranks", lambda: (3, 1))
    with pytest.raises(UserError, match="was trained with processes 2, not 3"):
        pretrain_supernet(images, SPACE, out=folder / "shuffled", recipe=again, steps=1, device="cpu", resume=True)


def test_one_process_has_nobody_to_shuffle_with(images, tmp_path):
    alone = dataclasses.replace(recipe("mocov2"), batch_size=4)
    with pytest.raises(UserError, match="shuffles images over processes, and there is one; start several"):
        pretrain_supernet(images, SPACE, out=tmp_path / "out", recipe=alone, steps=1, device="cpu")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="norm_statistics is 'local'; expected 'synced' or 'shuffled'"):
        read_recipe("micro", ["norm_statistics=local"])
