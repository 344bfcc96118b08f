import dataclasses
import json
import math
import resource
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from processes import in_processes
from samples import SPACE, TEACHER, Killed, killed_at, tiny_teacher
from torch.nn import functional as F

from data_plugin import SearchSpace, UserError
from data_plugin.backbones import DATAResNet
from data_plugin.pretrain.recipe import Recipe, read_recipe
from data_plugin.space.arch import Arch
from data_plugin.supernet.checkpoint import load_supernet
from data_plugin.tools.pretrain import main
from data_plugin.utils.tensor_files import read_tensors

pytest.importorskip("lightly", reason="pre-training needs lightly")
pytest.importorskip("lightning", reason="pre-training needs lightning")

from lightning.pytorch.plugins import MixedPrecision

from data_plugin.pretrain import callbacks
from data_plugin.pretrain.callbacks import RunSettings
from data_plugin.pretrain.methods.distill import DistillSettings
from data_plugin.pretrain.methods.moco import MoCoV2, MoCoV2Settings
from data_plugin.pretrain.output_folder import CHECKPOINT, SUPERNET
from data_plugin.pretrain.run import Pretrained, pretrain_supernet
from data_plugin.pretrain.step import SupernetTraining
from data_plugin.pretrain.trainer import PRECISIONS
from data_plugin.pretrain.views import Batch

BATCH = 4
RECIPE = Recipe(
    method="mocov2",
    settings=MoCoV2Settings(queue=16, hidden=24, dim=8),
    epochs=2,
    batch_size=BATCH,
    image_size=32,
    lr=0.1,
    warmup=0.2,
    momentum=0.9,
    weight_decay=1e-4,
    key_momentum=0.9,
)
DISTILLATION = dataclasses.replace(
    RECIPE, method="distill", settings=DistillSettings(**TEACHER, keep=10, queue=16, hidden=24, dim=8)
)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for index in range(10):
        (folder / str(index % 2)).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (36, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / str(index % 2) / f"{index}.png")
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def train(images, out, steps=6, **options):
    given = {"recipe": RECIPE, "workers": 0, "device": "cpu", **options}
    return pretrain_supernet(images, SPACE, out=out, steps=steps, **given)


@pytest.fixture
def training():
    torch.manual_seed(0)
    training = SupernetTraining(SPACE, RECIPE, steps=10, seed=0)
    training.log = training.log_dict = lambda *args, **kwargs: None
    return training.train()


def random_batch(seed=1, count=BATCH, size=32):
    generator = torch.Generator().manual_seed(seed)
    return Batch([torch.randn(count, 3, size, size, generator=generator) for _ in range(2)], [])


def info_nce(queries, keys, queue, temperature):
    """Equation 1 of MoCo (He et al., 2020), image by image."""
    losses = []
    for query, key in zip(F.normalize(queries, dim=1), keys, strict=True):
        positive = torch.exp(query @ key / temperature)
        negatives = sum(torch.exp(query @ negative / temperature) for negative in queue)
        losses.append(-torch.log(positive / (positive + negatives)))
    return sum(losses) / len(losses)


def test_a_step_is_algorithm_1_with_the_same_keys_and_negatives_for_all_three_networks(training):
    batch, method = random_batch(), training.method
    queue = method.contrast.memory_bank.bank.clone()
    keys = F.normalize(method.key_head(training.key(batch.views[1], SPACE.largest)[-1].mean((2, 3))), dim=1)
    archs = training.networks(0)
    expected = sum(
        info_nce(method.query_head(training.query(batch.views[0], arch)[-1].mean((2, 3))), keys, queue, 0.2)
        for arch in archs
    )
    key_passes = []
    training.key.register_forward_hook(lambda module, args, output: key_passes.append(args[1]))
    loss = training.training_step(batch, 0)
    assert (len(archs), archs[0]) == (3, SPACE.largest)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert key_passes == [SPACE.largest]


def test_the_queue_takes_in_the_keys_of_a_step_once(training):
    queue = training.method.contrast.memory_bank
    before = queue.bank.clone()
    for step in range(5):
        batch = random_batch(step)
        keys = training.method.targets([training.key(batch.views[1], SPACE.largest)[-1]])
        training.training_step(batch, step)
        first = step * BATCH % 16
        assert queue.bank_ptr.item() == (first + BATCH) % 16
        before[first : first + BATCH] = keys
        assert torch.allclose(queue.bank, before, atol=1e-3)


def test_spread_and_matches_tell_a_collapsed_network_from_a_perfect_one(training):
    spread = F.normalize(torch.randn(2_000, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    perfect = training.method.health(spread, spread)
    assert perfect["key_std"].item() == pytest.approx(1, abs=0.02)
    assert perfect["matched"].item() == 1
    collapsed = training.method.health(spread, F.normalize(spread * 1e-3 + 1, dim=1))
    assert collapsed["key_std"].item() < 0.01
    strangers = training.method.health(spread.roll(1, 0), spread)
    assert strangers["matched"].item() == 0


def test_no_gradient_reaches_the_key_branch_and_every_trained_weight_has_one(training):
    training.training_step(random_batch(), 0).backward()
    for name, parameter in training.named_parameters():
        trained = name.startswith(("query.", "method.query_head."))
        assert parameter.requires_grad == trained, name
        assert (parameter.grad is not None) == trained, name


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_head_reads_a_narrow_network_as_a_wide_one_whose_other_channels_are_zero(batch_norm):
    method = MoCoV2(32, dataclasses.replace(RECIPE.settings, batch_norm=batch_norm))
    narrow = torch.rand(3, 12)
    wide = F.pad(narrow, (0, 20))
    assert torch.allclose(method.query_head(narrow), method.query_head(wide), atol=1e-6)


def test_random_networks_depend_on_seed_and_step_alone(training):
    draws = [tuple(training.networks(step)[1:]) for step in range(50)]
    assert draws == [tuple(training.networks(step)[1:]) for step in range(50)]
    assert len(set(draws)) > 40
    assert all(arch in SPACE for draw in draws for arch in draw)


def test_the_key_branch_follows_the_query_branch_once_a_step(images, out, monkeypatch):
    seen = []
    step = SupernetTraining.optimizer_step

    def recorded(self, *args, **kwargs):
        before = self.key.conv1.weight.clone(), self.method.key_head.layers[0].weight.clone()
        step(self, *args, **kwargs)
        queries = self.query.conv1.weight, self.method.query_head.layers[0].weight
        after = self.key.conv1.weight, self.method.key_head.layers[0].weight
        seen.extend(
            (old * 0.9 + query * 0.1 - new).abs().max() for old, query, new in zip(before, queries, after, strict=True)
        )
        assert not torch.equal(queries[0], before[0])

    monkeypatch.setattr(SupernetTraining, "optimizer_step", recorded)
    train(images, out, steps=3)
    assert len(seen) == 6
    assert max(seen) < 1e-6


def test_what_comes_out_is_a_supernet_that_says_how_it_was_trained(images, out):
    result = train(images, out, steps=3, seed=5)
    supernet = load_supernet(out / SUPERNET, SPACE)
    training = supernet.info.training
    assert (result.path, result.steps, result.images) == (out / SUPERNET, 3, 10)
    assert supernet.info.method == "mocov2"
    assert supernet.info.input_format.channel_order == "RGB"
    assert training["recipe"] == RECIPE.to_json()
    assert [training[name] for name in ("image_size", "batch_size", "steps", "seed", "images")] == [32, BATCH, 3, 5, 10]
    assert training["versions"].keys() == {"data_plugin", "torch", "lightly", "lightning"}
    assert {name.split(".")[0] for name in supernet.heads} == {"query", "key"}
    assert supernet.heads["query.layers.0.weight"].shape == (24, SPACE.largest.out_channels[-1])
    assert sorted(path.name for path in out.iterdir()) == ["logs", SUPERNET]


def test_loss_spread_and_speed_are_logged(images, out):
    train(images, out, steps=20)
    (log,) = out.glob("logs/*/metrics.csv")
    header, *rows = (line.split(",") for line in log.read_text().split())
    assert {"loss", "loss/largest", "loss/others", "key_std", "matched", "images/s", "epoch", "lr"} <= set(header)
    assert [row[header.index("step")] for row in rows] == ["9", "19"]
    losses = [float(rows[0][header.index(name)]) for name in ("loss", "loss/largest", "loss/others")]
    assert losses[0] == pytest.approx((losses[1] + 2 * losses[2]) / 3, rel=1e-5)


@pytest.mark.parametrize(
    ("stop", "workers", "options"),
    [
        (3, 0, {"views_on": "device", "accumulate": 2}),
        (5, 2, {}),
        (5, 0, {"recipe": DISTILLATION}),
        (5, 0, {"precision": "fp64"}),
        (5, 0, {"precision": "fp16"}),  # the first steps' gradients overflow, so the loss scale has moved by then
    ],
)
def test_a_resumed_training_ends_with_the_bits_of_an_uninterrupted_one(
    images, tmp_path, monkeypatch, stop, workers, options
):
    if "views_on" in options:
        pytest.importorskip("kornia", reason="views on a device need kornia")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(images, whole, steps=8, checkpoint_every=2, **options)
    with monkeypatch.context() as patch:
        patch.setattr(SupernetTraining, "training_step", killed_at(SupernetTraining, stop))
        with pytest.raises(Killed):
            train(images, parts, steps=8, checkpoint_every=2, workers=workers, **options)
    assert not (parts / SUPERNET).exists()
    assert read_tensors(parts / CHECKPOINT)[0]["global_step"] == stop - 1
    torch.manual_seed(99)
    train(images, parts, steps=8, checkpoint_every=2, workers=workers, resume=True, **options)

    expected, _ = read_tensors(whole / CHECKPOINT)
    found, _ = read_tensors(parts / CHECKPOINT)
    assert found["global_step"] == expected["global_step"] == 8
    assert found.get("MixedPrecision") == expected.get("MixedPrecision")
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(found[part], expected[part], rtol=0, atol=0)
    assert any("bank" in name for name in expected["state_dict"])
    final, _ = read_tensors(parts / SUPERNET)
    for name, value in read_tensors(whole / SUPERNET)[0].items():
        assert torch.equal(final[name], value), name


def test_another_seed_gives_another_supernet(images, tmp_path):
    weights = []
    for seed in (0, 1):
        train(images, tmp_path / str(seed), steps=2, seed=seed)
        weights.append(read_tensors(tmp_path / str(seed) / SUPERNET)[0]["query.conv1.weight"])
    assert not torch.equal(*weights)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"recipe": dataclasses.replace(RECIPE, lr=0.2)}, r"recipe\.lr 0\.1, not 0\.2"),
        ({"steps": 9}, "steps 6, not 9"),
        ({"seed": 1}, "seed 0, not 1"),
    ],
)
def test_resuming_with_other_settings_is_refused(images, out, changed, message):
    train(images, out, checkpoint_every=2)
    with pytest.raises(UserError, match=message):
        train(images, out, **{"steps": 6, **changed}, resume=True)


def test_resuming_with_another_space_or_other_images_is_refused(images, out):
    train(images, out, checkpoint_every=2)
    with pytest.raises(UserError, match=r"space\.stem \[4, 8\], not \[8, 12, 16\]"):
        pretrain_supernet(images, SearchSpace.micro(), out=out, recipe=RECIPE, steps=6, resume=True)
    (images / "0" / "0.png").rename(images / "0" / "another.png")
    with pytest.raises(UserError, match="was trained with data"):
        train(images, out, resume=True)


def test_there_must_be_something_to_resume(images, out):
    with pytest.raises(UserError, match="nothing to resume"):
        train(images, out, resume=True)
    train(images, out, checkpoint_every=2)
    whole = (out / CHECKPOINT).read_bytes()
    (out / CHECKPOINT).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="truncated"):
        train(images, out, resume=True)


def test_an_earlier_result_is_replaced_on_demand_only(images, out):
    train(images, out, steps=2)
    before = (out / SUPERNET).read_bytes()
    with pytest.raises(UserError, match="holds a supernet already"):
        train(images, out, steps=2, seed=1)
    assert (out / SUPERNET).read_bytes() == before
    train(images, out, steps=2, seed=1, overwrite=True)
    assert (out / SUPERNET).read_bytes() != before


def test_a_new_training_forgets_what_the_teacher_said_in_the_one_that_it_replaces(images, out, tmp_path):
    train(images, out, recipe=DISTILLATION)
    for path in images.rglob("*.png"):
        ImageOps.invert(Image.open(path)).save(path)
    train(images, out, recipe=DISTILLATION, overwrite=True)
    train(images, tmp_path / "elsewhere", recipe=DISTILLATION)
    replaced, new = (read_tensors(folder / SUPERNET)[0] for folder in (out, tmp_path / "elsewhere"))
    torch.testing.assert_close(replaced, new, rtol=0, atol=0)
    answers = [folder / "teacher" / "rank_0" / "maps.npy" for folder in (out, tmp_path / "elsewhere")]
    np.testing.assert_array_equal(*map(np.load, answers))


def test_the_output_folder_may_not_be_a_file(images, out):
    out.write_text("mine")
    with pytest.raises(UserError, match="out is a file"):
        train(images, out, overwrite=True)
    assert out.read_text() == "mine"


def test_an_unfinished_training_is_not_overwritten_unasked(images, out, monkeypatch):
    monkeypatch.setattr(SupernetTraining, "training_step", killed_at(SupernetTraining, 3))
    with pytest.raises(Killed):
        train(images, out, checkpoint_every=2)
    with pytest.raises(UserError, match="holds an unfinished training already"):
        train(images, out)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_stops_the_training_and_is_named(images, out, workers):
    (images / "1" / "3.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"^1 of 10 images cannot be read \(1/3\.png\), more than the 0 allowed; "):
        train(images, out, workers=workers)
    assert not (out / SUPERNET).exists()


def test_unreadable_images_can_be_skipped_and_are_reported(images, out, capsys):
    for name in ("0/2.png", "1/3.png"):
        (images / name).write_bytes(b"broken")
    assert train(images, out, max_unreadable=10).unreadable == ["0/2.png", "1/3.png"]
    assert load_supernet(out / SUPERNET).info.training["unreadable"] == 2
    arguments = command(images, out, "--overwrite", "--max-unreadable", "10", "--steps", "6")
    assert main(arguments) == 0
    assert "2 of 10 images could not be read and were skipped: 0/2.png, 1/3.png" in capsys.readouterr().out


def test_a_notebook_shows_what_a_training_came_to(tmp_path):
    shown = Pretrained(tmp_path / "<net>.safetensors", steps=12_000, images=34_567, unreadable=["a.jpg"])._repr_html_()
    assert shown.count("<tr>") == 4
    for cell in (f"{tmp_path}/&lt;net&gt;.safetensors", "12,000", "34,567", "1"):
        assert f"<td>{cell}</td>" in shown


def test_nothing_but_unreadable_images_is_refused(images, out):
    for path in images.rglob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(UserError, match="none of the 10 images can be read"):
        train(images, out, max_unreadable=10)


def test_a_loss_that_is_not_a_number_stops_the_training_and_names_step_and_checkpoint(images, out):
    diverging = dataclasses.replace(RECIPE, lr=1e30, warmup=0.0)
    with pytest.raises(UserError, match=r"the loss is nan at step [1-3]; .*; lower the learning rate \(1e\+30\)"):
        train(images, out, recipe=diverging)
    assert not (out / SUPERNET).exists()


def nan_at(step):
    whole = SupernetTraining.training_step

    def training_step(self, batch, batch_idx):
        if self.global_step == step:
            batch.views[0][:] = float("nan")
        return whole(self, batch, batch_idx)

    return training_step


def test_the_last_good_checkpoint_is_named_when_the_loss_is_lost(images, out, monkeypatch):
    monkeypatch.setattr(SupernetTraining, "training_step", nan_at(5))
    with pytest.raises(UserError, match=r"the loss is nan at step 5; the last good checkpoint is .*last\.ckpt"):
        train(images, out, checkpoint_every=2)
    assert read_tensors(out / CHECKPOINT)[0]["global_step"] == 4


def test_lost_weights_do_not_replace_a_good_checkpoint(images, out, monkeypatch):
    whole = SupernetTraining.optimizer_step

    def optimizer_step(self, *args, **kwargs):
        whole(self, *args, **kwargs)
        if self.global_step == 3:
            self.query.conv1.weight.data[0] = float("inf")

    monkeypatch.setattr(SupernetTraining, "optimizer_step", optimizer_step)
    with pytest.raises(UserError, match=r"conv1\.weight is not finite after step 4; the last good checkpoint is"):
        train(images, out, checkpoint_every=2)
    assert read_tensors(out / CHECKPOINT)[0]["global_step"] == 2


def train_until_the_disk_is_full(arguments):
    whole = callbacks.WholeFiles.save_checkpoint

    def save(self, checkpoint, path, storage_options=None):
        if checkpoint["global_step"] == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        return whole(self, checkpoint, path)

    callbacks.WholeFiles.save_checkpoint = save
    print("exit code", main(arguments))


def test_a_full_disk_stops_the_training_and_keeps_the_last_checkpoint(images, out, tmp_path):
    arguments = command(images, out, "--checkpoint-every", "2", "--image-size", "32")
    arguments[arguments.index("--steps") + 1] = "6"
    said = in_processes(tmp_path, 1, train_until_the_disk_is_full, arguments)
    assert "exit code 2" in said
    assert "of step 4 cannot be written" in said
    assert "is kept; make room, then go on with --resume" in said
    assert read_tensors(out / CHECKPOINT)[0]["global_step"] == 2
    assert main([*arguments, "--resume"]) == 0


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_bits_of_an_uninterrupted_one(images, tmp_path):
    folders = tmp_path / "whole", tmp_path / "killed"
    arguments = [command(images, out, "--checkpoint-every", "1", "--image-size", "32") for out in folders]
    for one in arguments:
        one[one.index("--steps") + 1] = "20"
    process = subprocess.Popen([sys.executable, "-m", "data_plugin.tools.pretrain", *arguments[1]])
    while not (folders[1] / CHECKPOINT).exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.kill()
    process.wait()
    assert not (folders[1] / SUPERNET).exists()
    assert main([*arguments[1], "--resume"]) == 0
    assert main(arguments[0]) == 0
    expected, found = (read_tensors(folder / SUPERNET)[0] for folder in folders)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert [path.name for path in (folders[1] / "checkpoints").iterdir()] == [CHECKPOINT.name]


def test_accumulated_parts_see_every_image_of_the_batch_and_make_one_step(images, out, monkeypatch):
    seen = []
    whole = SupernetTraining.training_step

    def training_step(self, batch, batch_idx):
        seen.append((self.global_step, len(batch.views[0])))
        return whole(self, batch, batch_idx)

    monkeypatch.setattr(SupernetTraining, "training_step", training_step)
    train(images, out, steps=2, accumulate=2)
    assert seen == [(0, 2), (0, 2), (1, 2), (1, 2)]
    with pytest.raises(UserError, match="a batch of 4 cannot be shared by 1 processes in 3 parts"):
        train(images, out, accumulate=3, overwrite=True)


def weights(out):
    return {name: value for name, value in read_tensors(out / SUPERNET)[0].items() if name.startswith("query.")}


def test_recomputing_activations_changes_nothing_but_running_statistics(images, tmp_path):
    train(images, tmp_path / "kept", steps=3)
    train(images, tmp_path / "recomputed", steps=3, with_cp=True)
    expected, found = weights(tmp_path / "kept"), weights(tmp_path / "recomputed")
    for name, value in expected.items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize(("name", "half", "near"), [("bf16", torch.bfloat16, 0.1), ("fp16", torch.float16, 0.01)])
def test_half_precision_computes_what_single_precision_does_and_keeps_weights_in_it(
    images, out, training, name, half, near
):
    batch = random_batch(count=16, size=64)  # with fewer, batch norms magnify rounding
    queue = training.method.contrast.memory_bank.bank.clone()
    expected = training.training_step(batch, 0)
    training.method.contrast.memory_bank.bank.copy_(queue)
    convolutions = []
    training.query.conv1.register_forward_hook(lambda module, args, output: convolutions.append(output.dtype))
    with torch.autocast("cpu", half):
        found = training.training_step(batch, 0)
    assert set(convolutions) == {half}
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=near)
    train(images, out, steps=2, precision=name)
    assert load_supernet(out / SUPERNET).info.training["precision"] == name
    assert {value.dtype for value in weights(out).values()} == {torch.float32, torch.int64}


def test_losses_and_what_is_watched_are_computed_in_single_precision(training, monkeypatch):
    in_half = []

    def noting(whole):
        def noted(*args):
            in_half.append(torch.is_autocast_enabled("cpu"))
            return whole(*args)

        return noted

    for name in ("loss", "health"):
        monkeypatch.setattr(training.method, name, noting(getattr(training.method, name)))
    with torch.autocast("cpu", torch.bfloat16):
        training.training_step(random_batch(), 0)
    assert in_half == [False] * 4


def with_loss_scale(monkeypatch, scale):
    """Begin with a loss scale at which the tiny networks' gradients do not overflow; the usual one is 65,536."""

    def precision(device):
        return MixedPrecision("16-mixed", device, torch.amp.GradScaler(device, init_scale=scale))

    monkeypatch.setitem(PRECISIONS, "fp16", precision)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_whose_gradients_overflow_is_passed_over_and_counts(images, out, monkeypatch, accumulate):
    with_loss_scale(monkeypatch, 1.0)
    whole, after = SupernetTraining.training_step, []

    def training_step(self, batch, batch_idx):
        loss = whole(self, batch, batch_idx)
        # Finite in single precision; a gradient of this size is not in half. The first part of a step suffices.
        return loss * 1e10 if self.global_step == 2 and batch_idx % accumulate == 0 else loss

    def look(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx % accumulate == accumulate - 1:
            optimizer = trainer.optimizers[0]
            after.append(
                {
                    "weights": [value.detach().clone() for value in module.query.parameters()],
                    "key": [value.clone() for value in module.key.parameters()],
                    "momentum": [state["momentum_buffer"].clone() for state in optimizer.state.values()],
                    "lr": optimizer.param_groups[0]["lr"],
                    "scale": trainer.scaler.get_scale(),
                    "queue": module.method.contrast.memory_bank.bank_ptr.item(),
                    "step": trainer.global_step,
                }
            )

    monkeypatch.setattr(SupernetTraining, "training_step", training_step)
    monkeypatch.setattr(RunSettings, "on_train_batch_end", look)
    # At 32 pixels a part of two images normalises C5's single cells of two, whose gradients know no bound.
    larger = dataclasses.replace(RECIPE, image_size=64)
    train(images, out, steps=6, precision="fp16", accumulate=accumulate, recipe=larger)

    def same(part, one, other):
        return all(torch.equal(*pair) for pair in zip(after[one][part], after[other][part], strict=True))

    assert [same("weights", step, step + 1) for step in range(4)] == [False, True, False, False]
    assert [same("momentum", step, step + 1) for step in range(4)] == [False, True, False, False]
    assert [state["scale"] for state in after] == [1.0, 1.0, 0.5, 0.5, 0.5, 0.5]
    assert [state["step"] for state in after] == [1, 2, 3, 4, 5, 6]
    assert [state["queue"] for state in after] == [4, 8, 12, 0, 4, 8]
    assert after[2]["lr"] != after[1]["lr"]
    for before, key, query in zip(after[1]["key"], after[2]["key"], after[2]["weights"], strict=True):
        torch.testing.assert_close(key, 0.9 * before + 0.1 * query)
    assert all(value.isfinite().all() for value in weights(out).values())


def test_gradients_that_overflow_at_any_loss_scale_stop_the_training(images, out, monkeypatch):
    whole = SupernetTraining.training_step
    monkeypatch.setattr(SupernetTraining, "training_step", lambda self, *args: whole(self, *args) * 1e30)
    sentence = r"no loss scale keeps the gradients finite, down to [0-9.e-]+ at step 30; .*; .* or train in bf16"
    with pytest.raises(UserError, match=sentence):
        train(images, out, steps=100, precision="fp16")
    assert not (out / SUPERNET).exists()


def test_the_sandwich_is_the_largest_the_smallest_and_a_random_network(training):
    training.recipe = dataclasses.replace(RECIPE, sampler="sandwich")
    draws = [training.networks(step) for step in range(20)]
    assert all(draw[:2] == [SPACE.largest, SPACE.smallest] for draw in draws)
    assert len({draw[2] for draw in draws}) > 10


def test_epochs_like_those_of_another_number_of_images_take_as_many_steps(images, out):
    result = train(images, out, steps=None, epochs_like=13)
    assert (result.steps, result.images) == (RECIPE.epochs * 13 // BATCH, 10)
    with pytest.raises(UserError, match="epochs like those of 3 images, fewer than a batch of 4"):
        train(images, out, steps=None, epochs_like=3, overwrite=True)


def test_in_a_slow_start_the_largest_network_is_trained_alone(training):
    training.recipe = dataclasses.replace(RECIPE, slow_start=0.3)
    assert [len(training.networks(step)) for step in range(10)] == [1, 1, 1, *[3] * 7]
    assert training.networks(0) == [SPACE.largest]


def test_the_step_is_trained_on_the_weighted_losses_of_its_networks(training, monkeypatch):
    monkeypatch.setattr(training, "log", lambda *args, **options: None)
    monkeypatch.setattr(training, "log_dict", lambda *args, **options: None)
    losses = []
    whole = training.method.loss
    monkeypatch.setattr(training.method, "loss", lambda *args: losses.append(whole(*args)) or losses[-1])
    assert training.training_step(random_batch(), 0).item() == pytest.approx(sum(losses).item())
    losses.clear()
    training.recipe = dataclasses.replace(RECIPE, others_weight=0.25)
    found = training.training_step(random_batch(), 0)
    assert found.item() == pytest.approx((losses[0] + 0.25 * (losses[1] + losses[2])).item())


def test_a_space_of_one_network_trains_that_network_once_a_step(training):
    one = SearchSpace((4,), ((4,), (4,), (4,), (4,)), ((1,), (1,), (1,), (1,)))
    torch.manual_seed(0)
    plain = SupernetTraining(one, RECIPE, steps=10, seed=0)
    logged = {}
    plain.log = lambda name, value, **options: logged.update({name: value})
    plain.log_dict = lambda *args, **options: None
    batch, queue = random_batch(), plain.method.contrast.memory_bank.bank.clone()
    keys = F.normalize(plain.method.key_head(plain.key(batch.views[1], one.largest)[-1].mean((2, 3))), dim=1)
    query = plain.method.query_head(plain.query(batch.views[0], one.largest)[-1].mean((2, 3)))
    passes = []
    plain.query.register_forward_hook(lambda module, args, output: passes.append(args[1]))
    assert plain.training_step(batch, 0).item() == pytest.approx(info_nce(query, keys, queue, 0.2).item(), rel=1e-4)
    assert passes == [one.largest]
    assert set(logged) == {"loss"}


def test_a_training_starts_from_given_weights(images, out, tmp_path, capsys):
    source = DATAResNet(Arch(5, (6, 7, 8, 8), (1, 2, 1, 1)))
    torch.save(source.state_dict(), tmp_path / "source.pth")
    recipe = dataclasses.replace(RECIPE, lr=1e-12)
    train(images, out, steps=1, init=tmp_path / "source.pth", recipe=recipe)
    supernet = load_supernet(out / SUPERNET)
    for branch in (supernet.query, supernet.key):
        for name, value in source.named_parameters():
            found = branch.state_dict()[name]
            assert torch.allclose(found[tuple(slice(0, size) for size in value.shape)], value, atol=1e-6), name
    assert "started from source.pth (d1-2-1-1_w5-6-7-8-8)" in capsys.readouterr().out
    assert supernet.info.training["init"]["file"] == "source.pth"


def test_a_training_starts_from_the_shipped_supernet_and_says_what_is_behind_it(images, shipped, out, capsys):
    recipe = dataclasses.replace(RECIPE, lr=1e-12)
    train(images, out, steps=1, init="shipped", recipe=recipe)
    assert f"started from shipped ({SPACE.largest})" in capsys.readouterr().out
    supernet, source = load_supernet(out / SUPERNET), load_supernet("shipped")
    for name, value in source.query.named_parameters():
        assert torch.allclose(supernet.key.state_dict()[name], value, atol=1e-6), name
    init = supernet.info.training["init"]
    assert (init["file"], init["saw_labels"]) == ("shipped", True)
    assert supernet.info.saw_labels is True

    shipped.write_bytes(shipped.read_bytes()[:-1] + b"\x01")
    assert main([*command(images, out), "--init", "shipped", "--overwrite"]) == 2
    assert "is damaged: its weights are not those" in capsys.readouterr().err
    assert load_supernet(out / SUPERNET).info == supernet.info


def test_a_resumed_training_has_to_have_started_from_the_same_weights(images, out, tmp_path):
    for seed in range(2):
        torch.manual_seed(seed)
        torch.save(DATAResNet(SPACE.smallest).state_dict(), tmp_path / f"{seed}.pth")
    train(images, out, steps=2, init=tmp_path / "0.pth", checkpoint_every=2)
    with pytest.raises(UserError, match=r"was trained with init.file 0\.pth, not 1\.pth"):
        train(images, out, steps=2, init=tmp_path / "1.pth", resume=True)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (None, "weights .* are not a file"),
        ({"fc.weight": torch.zeros(2)}, "has no entry layer1.0.conv1.weight"),
        (DATAResNet(Arch(64, (8, 8, 8, 8), (1, 1, 1, 1))).state_dict(), "wider than this space's largest network"),
    ],
    ids=["no file", "no ResNet", "another space"],
)
def test_weights_that_do_not_fit_leave_everything_as_it_was(images, out, tmp_path, weights, message):
    train(images, out, steps=1, checkpoint_every=1)
    before = (out / CHECKPOINT).read_bytes()
    if weights is not None:
        torch.save(weights, tmp_path / "source.pth")
    with pytest.raises(UserError, match=message):
        train(images, out, steps=1, init=tmp_path / "source.pth", overwrite=True)
    assert (out / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("settings.teacher_saw_labels=3", "settings.teacher_saw_labels is 3; expected true or false"),
        ("settings.teacher=nowhere", "the teacher 'nowhere' is not a file; expected timm:NAME"),
        ("settings.teacher=torch.nn:Flatten", "the teacher's output is"),
        ("teacher=same-arch", "distill has a teacher of its own"),
    ],
)
def test_a_teacher_that_cannot_teach_ends_with_one_sentence(images, out, capsys, change, message):
    recipe = ["--recipe", "micro_distill", "--opts", "settings.queue=16", "settings.teacher=samples:tiny_teacher"]
    arguments = command(images, out, *recipe, "settings.dim=8", "image_size=32", change)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (out / SUPERNET).exists()


def test_a_teacher_that_says_nothing_finite_ends_with_one_sentence(images, out, monkeypatch):
    broken = tiny_teacher()
    broken[0].bias.data.fill_(float("nan"))
    monkeypatch.setattr("samples.tiny_teacher", lambda: broken)
    with pytest.raises(UserError, match="the teacher gives values that are not finite"):
        train(images, out, recipe=DISTILLATION)
    assert not (out / SUPERNET).exists()


def test_the_key_momentum_can_rise_on_a_cosine(training):
    assert training.key_momentum(5) == 0.9
    training.recipe = dataclasses.replace(RECIPE, key_momentum_end=1.0)
    # Grill et al., 2020, appendix J: 1 - (1 - tau) (cos(pi k / K) + 1) / 2.
    assert training.key_momentum(0) == pytest.approx(0.9)
    assert training.key_momentum(3) == pytest.approx(1 - 0.1 * (math.cos(math.pi * 3 / 9) + 1) / 2, abs=0.005)


def test_biases_and_norms_decay_only_where_the_recipe_says_so(training):
    def decayed():
        groups = training.configure_optimizers()["optimizer"].param_groups
        return [(len(group["params"]), group["weight_decay"]) for group in groups]

    trained = [parameter for parameter in training.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.dim() > 1]
    assert decayed() == [(len(trained), 1e-4)]
    training.recipe = dataclasses.replace(RECIPE, decay_norms=False)
    assert decayed() == [(len(matrices), 1e-4), (len(trained) - len(matrices), 0.0)]


def test_adamw_moves_every_weight_alike_at_first_and_decays_it_apart(training):
    training.recipe = dataclasses.replace(RECIPE, optimizer="adamw", warmup=0.0, decay_norms=False, weight_decay=0.5)
    configured = training.configure_optimizers()
    optimizer, rate = configured["optimizer"], configured["optimizer"].param_groups[0]["lr"]
    before = {name: value.detach().clone() for name, value in training.named_parameters()}
    training.training_step(random_batch(), 0).backward()
    optimizer.step()
    for name, value in training.named_parameters():
        if value.grad is not None:
            decayed = before[name] * (1 - rate * 0.5 if value.dim() > 1 else 1)
            moved = torch.where(value.grad.abs() > 1e-5, (value - decayed) / rate, -value.grad.sign())
            torch.testing.assert_close(moved, -value.grad.sign(), rtol=0, atol=2e-2, msg=name)


@pytest.mark.parametrize("kind", ["list", "shards"])
def test_images_of_a_list_and_of_shards_train_as_those_of_a_folder(images, tmp_path, kind):
    names = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    if kind == "list":
        source = images / "list.txt"
        source.write_text("\n".join(names))
    else:
        source = tmp_path / "shards"
        source.mkdir()
        for shard in range(2):
            with tarfile.open(source / f"{shard}.tar", "w") as tar:
                for name in names[shard::2]:
                    tar.add(images / name, name)
    found = train(source, tmp_path / "found", steps=4)
    assert found.images == 10
    if kind == "list":
        train(images, tmp_path / "expected", steps=4)
        expected, same = weights(tmp_path / "expected"), weights(tmp_path / "found")
        assert all(torch.equal(same[name], value) for name, value in expected.items())


def test_small_middle_and_large_networks_are_classified_meanwhile_without_changing_the_training(images, tmp_path):
    from data_plugin.pretrain.run import Labelled

    train(images, tmp_path / "watched", knn=Labelled(images, images, every=0.8), max_unreadable=0)
    train(images, tmp_path / "unwatched")
    (log,) = (tmp_path / "watched").glob("logs/*/metrics.csv")
    header, *rows = (line.split(",") for line in log.read_text().split())
    columns = [header.index(f"knn/{name}") for name in ("smallest", "middle", "largest")]
    measured = {int(row[header.index("step")]): [float(row[c]) for c in columns] for row in rows if row[columns[0]]}
    assert list(measured) == [0, 2, 4, 6]
    assert all(0 <= value <= 100 for values in measured.values() for value in values)
    expected, found = weights(tmp_path / "unwatched"), weights(tmp_path / "watched")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_papers_recipe_has_the_papers_numbers():
    recipe = read_recipe("data_mocov2_in1k")
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.weight_decay) == (200, 1024, 0.12, 7.5e-5)
    assert (recipe.settings.queue, recipe.settings.temperature, recipe.settings.dim) == (65536, 0.2, 128)
    assert (recipe.key_momentum, recipe.momentum) == (0.999, 0.9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch size is 0"),
        ({"batch_size": 5}, "queue holds 16 keys, which is no multiple of the batch size 5"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"warmup": 1.0}, "warm-up is 1.0"),
        ({"key_momentum": 1.0}, "key momentum is 1.0"),
    ],
)
def test_numbers_out_of_range_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(RECIPE, **change)


def command(images, out, *more):
    small = (
        "--space",
        "micro",
        "--batch-size",
        "4",
        "--opts",
        "settings.queue=16",
        "--steps",
        "2",
        "--device",
        "cpu",
        "--workers",
        "0",
    )
    return ["--data", str(images), "--out", str(out), *small, *more]


def test_the_command_trains_and_says_where_the_supernet_is(images, out, capsys):
    assert main(command(images, out)) == 0
    assert f"supernet: {out / SUPERNET}" in capsys.readouterr().out
    training = load_supernet(out / SUPERNET, SearchSpace.micro()).info.training
    assert (training["steps"], training["recipe"]["settings"]["queue"]) == (2, 16)
    micro = json.loads(json.dumps(read_recipe("micro").to_json()))
    assert training["recipe"] == {**micro, "batch_size": 4, "settings": {**micro["settings"], "queue": 16}}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--data", "nowhere"), "nowhere is not a folder"),
        (
            ("--recipe", "imagenet"),
            "'imagenet' is not a recipe; expected the path of a .toml file, or one of data_",
        ),
        (("--batch-size", "16"), "holds 10 images, fewer than a batch of 16"),
        (("--steps", "0"), "--steps is 0"),
        (("--resume",), "nothing to resume"),
    ],
)
def test_wrong_input_ends_the_command_with_one_sentence_and_nothing_written(images, out, capsys, more, message):
    assert main(command(images, out, *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.cuda
@pytest.mark.parametrize("views_on", ["workers", "device"])
def test_a_gpu_trains_both_branches_in_half_precision(images, out, views_on, cuda):
    if views_on == "device":
        pytest.importorskip("kornia", reason="views on a GPU need kornia")
    train(images, out, device=cuda.type, precision="bf16", views_on=views_on)
    written = load_supernet(out / SUPERNET)
    for branch in (written.query, written.key):
        weights = branch.state_dict()
        assert all(torch.isfinite(value).all() for value in weights.values())
        assert weights["bn1.running_mean"].abs().sum() > 0
    apart = [
        name for name, value in written.query.named_parameters() if not value.equal(written.key.get_parameter(name))
    ]
    assert apart


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_cuda_device_is_said(images, out, capsys):
    assert main(command(images, out, "--device", "cuda")) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_missing_libraries_are_named_with_what_installs_them(images, out, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "lightly" else object())
    assert main(command(images, out)) == 2
    assert "lightly is not installed; install it with: pip install 'data_plugin[pretrain]'" in capsys.readouterr().err


def test_help_needs_no_heavy_library():
    code = (
        "import sys\nfrom data_plugin.tools.pretrain import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'lightly', 'lightning'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--space" in shown.stdout
