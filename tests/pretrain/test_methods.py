"""The losses of the self-supervised methods against naive ones, written from the papers."""

import json
import math
import os
import re
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from processes import in_processes
from samples import SPACE, TEACHER, tiny_teacher
from torch.amp import GradScaler
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from data_plugin import UserError
from data_plugin.images.input_format import InputFormat
from data_plugin.pretrain.recipe import METHODS, RECIPES, Recipe, read_recipe
from data_plugin.supernet.checkpoint import load_supernet
from data_plugin.utils.tensor_files import read_tensors

pytest.importorskip("lightly", reason="pre-training needs lightly")
pytest.importorskip("lightning", reason="pre-training needs lightning")

from lightning.pytorch.plugins import MixedPrecision
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from data_plugin.pretrain.augmentation import Colours, View, crops, located, whole_views
from data_plugin.pretrain.callbacks import RunSettings
from data_plugin.pretrain.methods.distill import DistillSettings
from data_plugin.pretrain.methods.method import Method
from data_plugin.pretrain.methods.moco import MoCoV2
from data_plugin.pretrain.output_folder import CHECKPOINT, SUPERNET
from data_plugin.pretrain.run import pretrain_supernet
from data_plugin.pretrain.step import SupernetTraining
from data_plugin.pretrain.trainer import PRECISIONS
from data_plugin.tools.pretrain import main

FEATURES = SPACE.largest.out_channels[-1]
SETTINGS = {
    "mocov2": {"queue": 16, "hidden": 24, "dim": 8},
    "mocov2_symmetric": {"queue": 16, "hidden": 24, "dim": 8},
    "byol": {"hidden": 24, "dim": 8},
    "simclr": {"hidden": 24, "dim": 8, "temperature": 0.2},
    "simsiam": {"hidden": 24, "dim": 8, "predictor_hidden": 6},
    "ressl": {"queue": 16, "hidden": 24, "dim": 8},
    "densecl": {"queue": 16, "hidden": 24, "dim": 8, "dense": 0.3},
    "distill": {**TEACHER, "queue": 16, "hidden": 24, "dim": 8, "temperature": 0.2},
}
IMAGES = 5


def recipe(method, **changes):
    values = {"epochs": 1, "batch_size": 4, "image_size": 40, "lr": 0.1, "warmup": 0.0, "momentum": 0.9}
    values |= {"weight_decay": 1e-4, "key_momentum": 0.9, "method": method, "settings": SETTINGS[method]}
    return Recipe.from_json(values | changes)


def train(images, tried, out, **options):
    pretrain_supernet(images, SPACE, out=out, recipe=tried, workers=0, device="cpu", **options)


def build(method):
    torch.manual_seed(0)
    built = recipe(method).build_method(FEATURES)
    # Else both branches' heads say the same of the same.
    for parameter in built.key_head.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return built


def key_maps(method):
    """What :meth:`targets` gets: a teacher's maps have the projection's channels."""
    return [maps(2, 8 if method.settings_class is DistillSettings else FEATURES)] * len(method.key_views)


def query_maps(method, channels=FEATURES):
    return [maps(1, channels)] * (len(method.query_views) * len(method.query_taps))


def maps(seed, channels=FEATURES):
    return torch.rand(IMAGES, channels, 2, 3, generator=torch.Generator().manual_seed(seed))


def info_nce(query, key, queue, temperature):
    query, key = query / query.norm(), key / key.norm()
    positive = math.exp((query @ key).item() / temperature)
    return -math.log(
        positive / (positive + sum(math.exp((query @ negative).item() / temperature) for negative in queue))
    )


def test_symmetric_moco_is_the_mean_of_both_views_as_the_query():
    method = build("mocov2_symmetric")
    queries, keys = [maps(1, 16), maps(2, 16)], [maps(3), maps(4)]
    found = method.loss(method.predictions(queries), method.targets(keys))
    expected = 0.0
    for query, key in zip(queries, keys, strict=True):
        one, other = method.query_head(query.mean((2, 3))), method.key_head(key.mean((2, 3)))
        for image in range(IMAGES):
            expected += info_nce(one[image], other[image], method.contrast.memory_bank.bank, 0.2) / IMAGES / 2
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert (method.query_views, method.key_views) == ((0, 1), (1, 0))


def test_a_network_that_imitates_the_largest_chooses_among_the_keys_as_that_does():
    method = build("mocov2")
    targets, largest = method.targets([maps(2)]), method.predictions([maps(1)])
    narrow = method.predictions([maps(3, 16)])
    found = method.imitation(narrow, largest, targets)
    expected = 0.0
    for query, other, key in zip(narrow, largest, targets, strict=True):
        keys = torch.stack([key, *method.contrast.memory_bank.bank])
        wanted, chosen = torch.softmax(keys @ other / 0.2, 0), torch.softmax(keys @ query / 0.2, 0)
        expected -= sum(w.item() * math.log(c.item()) for w, c in zip(wanted, chosen, strict=True)) / IMAGES
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert torch.autograd.grad(found, largest, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(found, narrow)[0].abs().sum() > 0


@pytest.mark.parametrize("place", ["workers", "device", "beside a teacher"])
def test_a_query_may_be_smaller_than_its_key(place):
    settings = {**SETTINGS["mocov2"], "query_size": 0.6}
    views = recipe("mocov2", settings=settings).build_method(FEATURES).views
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8))
    make = {
        "workers": whole_views(views, 40, InputFormat.imagenet()),
        "device": crops(views, 40),
        "beside a teacher": lambda image: [view for view, _ in located(views, 40, InputFormat.imagenet())(image)],
    }[place]
    assert [tuple(view.shape) for view in make(image)] == [(3, 24, 24), (3, 40, 40)]


def test_byol_is_the_distance_of_each_views_prediction_to_the_other_views_target():
    method = build("byol")
    queries, keys = [maps(1, 16), maps(2, 16)], [maps(3), maps(4)]
    found = method.loss(method.predictions(queries), method.targets(keys))
    expected = 0
    for query, key in ((queries[0], keys[1]), (queries[1], keys[0])):
        predicted = method.predictor(method.query_head(query.mean((2, 3))))
        target = method.key_head(key.mean((2, 3)))
        for one, other in zip(predicted, target, strict=True):
            expected += ((one / one.norm() - other / other.norm()) ** 2).sum() / IMAGES
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_simclr_has_each_view_find_its_other_one_among_all_views_of_the_batch(batch_norm):
    settings = {**SETTINGS["simclr"], "batch_norm": batch_norm}
    method = recipe("simclr", settings=settings).build_method(FEATURES)
    queries = [maps(1, 16), maps(2, 16)]
    found = method.loss(method.predictions(queries), method.targets([]))
    views = torch.cat([method.query_head(query.mean((2, 3))) for query in queries])
    expected = 0.0
    for view in range(2 * IMAGES):
        other = (view + IMAGES) % (2 * IMAGES)
        rest = [each / each.norm() for index, each in enumerate(views) if index not in (view, other)]
        expected += info_nce(views[view], views[other], rest, 0.2) / (2 * IMAGES)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_simsiam_is_the_cosine_of_each_views_prediction_with_the_other_views_projection_as_it_stands():
    method = build("simsiam")
    queries = [maps(1, 16), maps(2, 16)]
    predictions = method.predictions(queries)
    found = method.loss(predictions, method.targets([]))
    projections = [method.query_head(query.mean((2, 3))) for query in queries]
    expected = 0
    for own, other in (projections, projections[::-1]):
        for one, two in zip(method.predictor(own), other, strict=True):
            expected -= F.cosine_similarity(one, two, dim=0) / IMAGES / 2
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    # The projections have a part in the gradient by way of the predictor alone.
    through = torch.autograd.grad(found, [each.prediction for each in predictions], retain_graph=True)
    assert all(gradient.abs().sum() > 0 for gradient in through)
    alone = method.loss([each._replace(prediction=each.prediction.detach()) for each in predictions], None)
    assert not alone.requires_grad


def test_ressl_is_the_cross_entropy_of_the_relations_to_earlier_images():
    method = build("ressl")
    query, key = maps(1, 16), maps(2)
    targets = method.targets([key])
    found = method.loss(method.predictions([query]), targets)
    expected = 0
    queue = method.queue.bank
    for one, other in zip(method.query_head(query.mean((2, 3))), method.key_head(key.mean((2, 3))), strict=True):
        student = [math.exp((one @ negative / one.norm()).item() / 0.1) for negative in queue]
        teacher = [math.exp((other @ negative / other.norm()).item() / 0.04) for negative in queue]
        expected -= sum(
            t / sum(teacher) * math.log(s / sum(student)) for s, t in zip(student, teacher, strict=True)
        ) / len(query)
    assert found.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("channels", [FEATURES, 40])
def test_densecl_compares_every_cell_with_the_key_cell_whose_features_are_nearest(channels):
    method = build("densecl")
    query, key = maps(1, channels), maps(2)
    found = method.loss(method.predictions([query]), method.targets([key]))
    whole = cells = 0
    for image in range(IMAGES):
        one = method.query_head["whole"](query[image : image + 1].mean((2, 3)))[0]
        other = method.key_head["whole"](key[image : image + 1].mean((2, 3)))[0]
        whole += info_nce(one, other, method.contrast.memory_bank.bank, 0.2) / IMAGES
        key_cells = [key[image, :, y, x] for y in range(2) for x in range(3)]
        for cell in [query[image, :, y, x] for y in range(2) for x in range(3)]:
            nearest = max(key_cells, key=lambda other: F.cosine_similarity(cell, other[:channels], dim=0).item())
            one = method.query_head["cells"](cell[None])[0]
            other = method.key_head["cells"](nearest[None])[0]
            cells += info_nce(one, other, method.dense_contrast.memory_bank.bank, 0.2) / IMAGES / 6
    assert found.item() == pytest.approx(0.7 * whole + 0.3 * cells, rel=1e-4)


def test_densecl_remembers_pooled_cells_of_length_1():
    method = build("densecl")
    key = maps(2)
    method.remember(method.targets([key]))
    projected = torch.stack([method.key_head["cells"](key[:, :, y, x]) for y in range(2) for x in range(3)]).mean(dim=0)
    expected = F.normalize(projected, dim=1)
    assert torch.allclose(method.dense_contrast.memory_bank.bank[:IMAGES], expected, atol=1e-6)


@pytest.mark.parametrize("channels", [FEATURES, 40])
def test_distillation_is_the_relation_to_earlier_images_and_the_direction_of_every_cell(channels):
    method = build("distill")
    c4, c5 = maps(1, channels // 2), torch.rand(IMAGES, channels, 1, 2)
    earlier, said = maps(4, 8), maps(3, 8)
    method.targets([earlier])
    taught = method.targets([said])
    found = method.loss(method.predictions([c4, c5]), taught)
    centre = (earlier + said).mean(dim=(0, 2, 3)) / 2
    expected = 0
    heads = method.query_head
    for image in range(IMAGES):
        cells = said[image] - centre[:, None, None]
        teacher, student = cells.mean((1, 2)), heads["whole"](c5.mean((2, 3)))[image]
        ours, theirs = (
            [math.exp((x / x.norm() @ key).item() / 0.2) for key in method.queue.bank] for x in (student, teacher)
        )
        expected -= sum(t / sum(theirs) * math.log(s / sum(ours)) for s, t in zip(ours, theirs, strict=True)) / IMAGES
        # C4 is as fine as the teacher's map; each cell of C5 covers half of it.
        wide = F.interpolate(cells[None], (1, 2), mode="bilinear", antialias=True)[0]
        for name, features, target in (("c4", c4[image], cells), ("c5", c5[image], wide)):
            places = [(y, x) for y in range(features.shape[1]) for x in range(features.shape[2])]
            for y, x in places:
                pointed = heads[name].weight[:, : len(features)] @ features[:, y, x] + heads[name].bias
                cosine = F.cosine_similarity(pointed, target[:, y, x], dim=0).item()
                expected += 4.0 * (1 - cosine) / len(places) / IMAGES
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_distillation_remembers_the_teachers_embeddings():
    method = build("distill")
    taught = method.targets([maps(3, 8)])
    method.remember(taught)
    centred = maps(3, 8) - maps(3, 8).mean(dim=(0, 2, 3), keepdim=True)
    assert torch.allclose(method.queue.bank[:IMAGES], F.normalize(centred.mean((2, 3)), dim=1), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": ""}, r"distillation needs a teacher; give settings\.teacher, timm:NAME"),
        (
            {"teacher_saw_labels": None},
            "nothing says whether the teacher 'samples:tiny_teacher' was trained with labels",
        ),
        ({"teacher_size": 0}, r"the teacher's input is settings\.teacher_size=0.*expected all of it"),
        ({"teacher_mean": [127.0]}, r"teacher_mean=\[127.0\].*three numbers"),
        ({"teacher_std": [64.0, 0.0, 64.0]}, "expected numbers above 0"),
        ({"teacher_std": "grey"}, r"settings\.teacher_std is 'grey'; expected a list of numbers"),
        ({"queue": 15}, "no multiple of the batch size"),
        ({"cells": "many"}, r"settings\.cells is 'many'; expected a number"),
    ],
)
def test_settings_that_leave_a_teacher_unknown_are_refused(changes, message):
    settings = {name: value for name, value in (SETTINGS["distill"] | changes).items() if value is not None}
    with pytest.raises(UserError, match=message):
        recipe("distill", settings=settings)


def test_a_distillation_sees_whole_images_and_its_file_says_whether_its_teacher_saw_labels(images, tmp_path):
    settings = {**SETTINGS["distill"], "teacher_saw_labels": True, "keep": 8}
    seen = []
    network = tiny_teacher()
    network.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("samples.tiny_teacher", lambda: network)
        train(images, recipe("distill", settings=settings), tmp_path / "out", steps=6)
    assert len(seen) == 2, "8 images in batches of 4, remembered from then on"
    assert load_supernet(tmp_path / "out" / SUPERNET).info.training["recipe"]["settings"]["teacher_saw_labels"] is True
    squares = [Image.open(path).resize((32, 32), Image.Resampling.BICUBIC) for path in images.iterdir()]
    whole = sorted(np.asarray(square).sum() for square in squares)
    shown = sorted(round(image.mul(64).add(127).sum().item()) for batch in seen for image in batch)
    assert shown == whole


@pytest.mark.parametrize("name", METHODS)
def test_every_method_makes_its_views_trains_its_heads_alone_and_reads_narrow_networks(name):
    method = build(name)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8))
    views = whole_views(method.views, 40, InputFormat.imagenet())(image)
    assert {tuple(view.shape) for view in views} == {(3, 40, 40)}
    assert set(method.query_views) | set(method.key_views) == set(range(len(views)))
    with torch.no_grad():
        targets = method.targets(key_maps(method))
    predictions = method.predictions(query_maps(method, SPACE.smallest.out_channels[-1]))
    method.loss(predictions, targets).backward()
    for parameter_name, parameter in method.named_parameters():
        assert (parameter.grad is None) == parameter_name.startswith("key_head."), parameter_name
    method.remember(targets)
    assert set(method.health(predictions, targets)) == {"key_std", "matched"}


def test_the_weak_view_of_ressl_keeps_the_colours():
    red = Image.new("RGB", (40, 40), (200, 40, 40))
    transform = whole_views(build("ressl").views, 32, InputFormat("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    torch.manual_seed(0)
    views = [transform(red) for _ in range(8)]
    expected = torch.tensor([200.0, 40.0, 40.0]).view(3, 1, 1).expand(3, 32, 32)
    assert all(torch.allclose(weak, expected, atol=1e-3) for _, weak in views)
    assert not all(torch.allclose(strong, expected, atol=1.0) for strong, _ in views)


PLAIN = View(crop=1.0, jitter_probability=0.0, grey=0.0, blur=0.0)


def crop_batch():
    pixels = torch.randint(0, 256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return [pixels, pixels]


def test_colours_on_the_device_depend_on_the_seed_alone_and_differ_between_images():
    pytest.importorskip("kornia", reason="views on a device need kornia")
    colours = Colours([View(0.2, solarize=0.5), View(0.2)], InputFormat.imagenet())
    torch.manual_seed(1)
    first = colours(crop_batch(), seed=(0, 1))
    state = torch.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(first, colours(crop_batch(), seed=(0, 1)), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first[0], colours(crop_batch(), seed=(0, 2))[0])
    same = [crops[:1].expand(6, -1, -1, -1) for crops in crop_batch()]
    assert len({view.sum().item() for view in colours(same, seed=(0, 3))[0]}) > 3


def test_without_changes_views_of_workers_and_device_are_the_image():
    pytest.importorskip("kornia", reason="views on a device need kornia")
    image = Image.new("RGB", (40, 40), (200, 40, 90))
    (expected,) = whole_views([PLAIN], 32, InputFormat.imagenet())(image)
    (cut,) = crops([PLAIN], 32)(image)
    assert cut.dtype == torch.uint8
    (found,) = Colours([PLAIN], InputFormat.imagenet())([cut[None]], seed=(0,))
    assert torch.allclose(found[0], expected, atol=1e-5)


@pytest.mark.parametrize(("change", "low", "high"), [("grey", 0.35, 0.65), ("solarize", 0.35, 0.65)])
def test_both_makers_change_as_many_images(change, low, high):
    pytest.importorskip("kornia", reason="views on a device need kornia")
    view = View(**{"crop": 1.0, "jitter_probability": 0.0, "grey": 0.0, "blur": 0.0, change: 0.5})
    image = Image.new("RGB", (32, 32), (200, 40, 90))
    on_cpu, cut = whole_views([view], 32, InputFormat.imagenet()), crops([view], 32)
    (plain,) = whole_views([PLAIN], 32, InputFormat.imagenet())(image)
    torch.manual_seed(0)
    np.random.seed(0)
    batch = torch.stack([cut(image)[0] for _ in range(200)])
    for views in (
        [on_cpu(image)[0] for _ in range(200)],
        Colours([view], InputFormat.imagenet())([batch], seed=(0,))[0],
    ):
        changed = sum(not torch.allclose(one, plain, atol=1e-3) for one in views) / 200
        assert low < changed < high


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for index in range(8):
        pixels = np.random.default_rng(index).integers(0, 256, (44, 44, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def toml(path, values):
    settings = values.pop("settings")
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
    lines += ["[settings]", *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]
    path.write_text("\n".join(lines))
    return path


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d")
TORCHRUN += ("--rdzv-endpoint", "localhost:0")


def two_processes(images, recipe, out, steps, *more):
    """Arguments that train with two processes on a CPU, in double precision."""
    path = toml(out.with_suffix(".toml"), recipe.to_json())
    space = out.with_suffix(".json")
    space.write_text(json.dumps(SPACE.to_json()))
    command = [*TORCHRUN, "-m", "data_plugin.tools.pretrain", "--data", images, "--out", out]
    command += ["--space", space, "--recipe", path, "--steps", steps, "--device", "cpu", "--workers", 0]
    return [str(part) for part in [*command, "--precision", "fp64", *more]]


def assert_same_supernet(found, expected):
    one, two = (read_tensors(folder / SUPERNET)[0] for folder in (expected, found))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


CASES = {
    **{name: recipe(name) for name in METHODS},
    **{f"{name}, same-arch": recipe(name, teacher="same-arch") for name in ("mocov2", "ressl", "densecl")},
    "mocov2, guided by the largest": recipe("mocov2", guide="largest", others_weight=0.5),
}


def train_all(images, folder):
    for name, tried in CASES.items():
        train(images, tried, folder / name, steps=2, precision="fp64")


@pytest.fixture(scope="module")
def in_two_processes(images, tmp_path_factory):
    """The folder of what two processes train in every case, one after the other."""
    folder = tmp_path_factory.mktemp("two")
    in_processes(folder, 2, train_all, images, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one_with_the_whole_batch(images, in_two_processes, tmp_path, case):
    train(images, CASES[case], tmp_path / "one", steps=2, precision="fp64")
    assert_same_supernet(in_two_processes / case, tmp_path / "one")


@pytest.mark.slow
def test_two_tasks_of_slurm_train_as_one_with_the_whole_batch(images, tmp_path):
    train(images, recipe("mocov2"), tmp_path / "one", steps=2, precision="fp64")
    command = two_processes(images, recipe("mocov2"), tmp_path / "two", 2)
    tool = [sys.executable, *command[command.index("data_plugin.tools.pretrain") - 1 :]]
    # What srun sets for a job of two tasks on one node.
    job = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "pretrain", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    job |= {"SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost", "SLURM_JOB_NODELIST": "localhost"}
    own = [{**os.environ, **job, "SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in "01"]
    tasks = [subprocess.Popen(tool, env=each, stdout=subprocess.PIPE, text=True) for each in own]
    said = [task.communicate()[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0]
    assert "".join(said).count("supernet: ") == 1
    assert_same_supernet(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_two_killed_processes_resume_to_what_one_that_was_never_stopped_comes_to(images, tmp_path):
    tried = recipe("mocov2", batch_size=8, lr=0.01)  # with which rounding is magnified less from step to step
    command = two_processes(images, tried, tmp_path / "killed", 6, "--checkpoint-every", 1)
    launcher = psutil.Popen(command, stdout=subprocess.DEVNULL)
    while not (tmp_path / "killed" / CHECKPOINT).exists():
        assert launcher.poll() is None
        time.sleep(0.01)
    processes = [launcher, *launcher.children(recursive=True)]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes)
    assert not (tmp_path / "killed" / SUPERNET).exists()
    in_processes(tmp_path, 2, main, [*command[command.index("--data") :], "--resume"])
    train(images, tried, tmp_path / "whole", steps=6, precision="fp64")
    assert_same_supernet(tmp_path / "killed", tmp_path / "whole")


def overflow_in_the_second(images, out):
    whole = SupernetTraining.training_step

    def training_step(self, batch, batch_idx):
        loss = whole(self, batch, batch_idx)
        return loss * 1e15 if self.global_rank == 1 and self.global_step == 1 else loss

    def on_train_end(self, trainer, training):
        weights = sum(value.double().sum().item() for value in training.query.parameters())
        said = f"scale {trainer.scaler.get_scale()} weights {weights!r}"
        (out / f"rank-{trainer.global_rank}").write_text(said)

    SupernetTraining.training_step = training_step
    RunSettings.on_train_end = on_train_end
    PRECISIONS["fp16"] = lambda device: MixedPrecision("16-mixed", device, GradScaler(device, 64.0))
    train(images, recipe("mocov2"), out, steps=3, precision="fp16")


@pytest.mark.slow
def test_all_processes_pass_over_a_step_whose_gradients_overflow_in_one(images, tmp_path):
    out = tmp_path / "out"
    in_processes(tmp_path, 2, overflow_in_the_second, images, out)
    said = [(out / f"rank-{rank}").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert said[0].startswith("scale 32.0 ")


def count_what_is_reduced(images, out):
    reduced = []

    def hook(state, bucket):
        reduced.append(bucket.buffer().numel())
        return allreduce_hook(state, bucket)

    whole = DistributedDataParallel.__init__

    def init(self, *args, **kwargs):
        whole(self, *args, **kwargs)
        self.register_comm_hook(None, hook)

    DistributedDataParallel.__init__ = init
    train(images, recipe("mocov2"), out, steps=2)
    print("reduced", sum(reduced))


@pytest.mark.slow
def test_the_three_passes_of_a_step_share_one_reduction_of_the_gradients(images, tmp_path):
    said = in_processes(tmp_path, 2, count_what_is_reduced, images, tmp_path / "out")
    training = SupernetTraining(SPACE, recipe("mocov2"), 2, 0)
    trained = sum(parameter.numel() for parameter in training.parameters() if parameter.requires_grad)
    assert re.findall(r"reduced (\d+)", said) == [str(2 * trained)] * 2


@pytest.mark.parametrize("name", METHODS)
def test_what_a_loss_compares_is_in_single_precision_whatever_the_networks_are_in(name):
    method = build(name)
    with torch.autocast("cpu", torch.float16):
        with torch.no_grad():
            targets = method.targets([each.half() for each in key_maps(method)])
        predictions = method.predictions([each.half() for each in query_maps(method)])
    compared = [value for value in tree_leaves((targets, predictions)) if isinstance(value, torch.Tensor)]
    assert {value.dtype for value in compared} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "changes"),
    [*((name, {}) for name in METHODS), ("byol", {"optimizer": "lars", "decay_norms": False, "lr": 1.0})],
)
def test_fp16_trains_nearly_as_single_precision_does(images, tmp_path, monkeypatch, name, changes):
    # Gradients of such small networks are large: the usual scale of 65,536 would be too much for the first step.
    monkeypatch.setitem(PRECISIONS, "fp16", lambda device: MixedPrecision("16-mixed", device, GradScaler(device, 64.0)))
    tried = recipe(name, batch_size=8, image_size=64, weight_decay=1e-6, **changes)
    whole, losses = SupernetTraining.training_step, []

    def training_step(self, *args):
        loss = whole(self, *args)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(SupernetTraining, "training_step", training_step)
    torch.manual_seed(0)
    start = SupernetTraining(SPACE, tried, 2, 0).query
    moved = []
    for precision in ("fp32", "fp16"):
        train(images, tried, tmp_path / precision, steps=2, precision=precision)
        trained = read_tensors(tmp_path / precision / SUPERNET)[0]
        moved.append(torch.cat([(trained[f"query.{n}"] - p).detach().flatten() for n, p in start.named_parameters()]))
    single, half = moved
    assert losses[2] == pytest.approx(losses[0], rel=0.01, abs=0.02)  # a mean cosine may be near 0
    assert math.isfinite(losses[3])
    assert (half - single).norm() < 0.6 * single.norm()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_read_and_builds_its_method(name):
    found = read_recipe(name, [f"settings.{size}" for size in ("hidden=4", "dim=2")])
    assert isinstance(found.build_method(8), Method)
    assert Recipe.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_the_papers_recipes_have_the_papers_numbers():
    byol, ressl, densecl = (read_recipe(f"data_{name}_in1k") for name in ("byol", "ressl", "densecl"))
    assert (byol.optimizer, byol.lr, byol.weight_decay, byol.decay_norms) == ("lars", 3.2, 1.5e-6, False)
    assert (byol.key_momentum, byol.key_momentum_end, byol.settings.dim) == (0.996, 1.0, 256)
    assert (ressl.settings.queue, ressl.settings.student_temperature) == (131_072, 0.1)
    assert (ressl.settings.teacher_temperature, ressl.lr, ressl.settings.dim) == (0.04, 0.05, 512)
    assert (densecl.settings.dense, densecl.settings.queue, densecl.lr) == (0.5, 65_536, 0.03)
    simclr, simsiam = read_recipe("simcore_simclr"), read_recipe("simsiam_in1k")
    assert (simclr.batch_size, simclr.lr, simclr.settings.temperature, simclr.settings.dim) == (512, 0.1, 0.07, 128)
    assert (simsiam.batch_size, simsiam.lr, simsiam.settings.dim) == (512, 0.1, 2_048)


class Own(MoCoV2):
    """A method of a user's own."""


def test_a_method_of_ones_own_is_named_by_its_module(images, tmp_path):
    own = recipe("mocov2").to_json() | {"method": f"{__name__}:Own"}
    path = toml(tmp_path / "own.toml", own)
    found = read_recipe(str(path), ["lr=0.05", "settings.queue=8", "teacher=same-arch"])
    assert (found.lr, found.settings.queue, found.teacher) == (0.05, 8, "same-arch")
    assert isinstance(found.build_method(FEATURES), Own)
    train(images, found, tmp_path / "out", steps=1)
    assert (tmp_path / "out" / SUPERNET).is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lr=fast", "lr is 'fast'; expected a number"),
        ("epochs=1.5", "epochs is 1.5; expected a whole number"),
        ("decay_norms=1", "decay_norms is 1; expected true or false"),
        ("teacher=smallest", "teacher is 'smallest'; expected 'largest' or 'same-arch'"),
        ("settings.heat=1", "a recipe has no settings.heat; expected some of settings.queue, "),
        ("heat=1", "a recipe has no heat; expected some of method, "),
        (
            "method=dino",
            "'dino' is not a method; expected mocov2, mocov2_symmetric, byol, simclr, simsiam, ressl, ",
        ),
        ("method='nowhere:Nothing'", "cannot be imported: No module named 'nowhere'"),
        ("method='json:dumps'", "is no subclass of data_plugin.pretrain.methods.method.Method"),
        ("lr", "'lr' is not a change of a recipe; expected name=value"),
        ("schedule.lr=1", "'schedule.lr' is no part of a recipe"),
        ("key_momentum_end=2", "the key momentum at the end is 2; expected 0 to 1"),
        ("slow_start=1.0", "the slow start is 1.0 of the steps; expected at least 0 and less than 1"),
        ("others_weight=0.0", "the weight of the other networks' losses is 0.0; expected above 0"),
        ("settings.query_size=0.0", "query size is 0.0; expected a number above 0"),
    ],
)
def test_what_a_recipe_cannot_be_is_said(change, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        read_recipe("micro", [change])


def test_a_guide_that_nothing_can_follow_is_refused():
    with pytest.raises(UserError, match=r"byol has no way to compare two .* has one: mocov2, mocov2_symmetric$"):
        read_recipe("micro_byol", ["guide=largest"])
    with pytest.raises(UserError, match="'same-arch' and the guide 'largest'"):
        read_recipe("micro", ["guide=largest", "teacher=same-arch"])


def test_recipe_files_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "mine.toml"
    with pytest.raises(UserError, match=r"mine\.toml cannot be read: No such file"):
        read_recipe(str(path))
    path.write_text("lr = = 1")
    with pytest.raises(UserError, match=r"mine\.toml is not TOML"):
        read_recipe(str(path))
    path.write_text('method = "mocov2"')
    with pytest.raises(UserError, match=r"the recipe lacks epochs; add a line epochs = \.\.\."):
        read_recipe(str(path))
