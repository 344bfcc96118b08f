"""Pre-training of sub-nets, each on the images of one code."""

import dataclasses
import itertools
import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from processes import in_processes
from samples import SPACE, TEACHER, Killed, killed_at, random_supernet_file, written_codes

from data_plugin import UserError
from data_plugin.backbones import RoutedResNet
from data_plugin.backbones.grouped import GroupedChannels
from data_plugin.features.store import EmbeddingStore
from data_plugin.images.open import open_images
from data_plugin.pretrain.recipe import METHODS, Recipe, read_recipe
from data_plugin.supernet.checkpoint import load_routed_supernet, load_supernet, save_supernet
from data_plugin.tools import embed, evaluate
from data_plugin.tools.pretrain import main
from data_plugin.utils.tensor_files import read_tensors

pytest.importorskip("lightly", reason="pre-training needs lightly")
pytest.importorskip("lightning", reason="pre-training needs lightning")

from data_plugin.pretrain.output_folder import CHECKPOINT, SUPERNET
from data_plugin.pretrain.phases import Phases
from data_plugin.pretrain.routed_step import RoutedTraining
from data_plugin.pretrain.run import pretrain_supernet
from data_plugin.pretrain.step import SupernetTraining
from data_plugin.pretrain.views import Batch

SIZES = {(0, 0): 5, (0, 1): 7, (1, 0): 6, (1, 1): 6}
SETTINGS = {
    "mocov2": {"queue": 16, "hidden": 24, "dim": 8},
    "mocov2_symmetric": {"queue": 16, "hidden": 24, "dim": 8},
    "byol": {"hidden": 24, "dim": 8},
    "simclr": {"hidden": 24, "dim": 8},
    "simsiam": {"hidden": 24, "dim": 8, "predictor_hidden": 6},
    "ressl": {"queue": 16, "hidden": 24, "dim": 8},
    "densecl": {"queue": 16, "hidden": 24, "dim": 8},
    "distill": {**TEACHER, "queue": 16, "hidden": 24, "dim": 8},
}


def recipe(method="simsiam", **changes):
    values = {"epochs": 1, "batch_size": 8, "image_size": 32, "lr": 0.1, "warmup": 0.0, "momentum": 0.9}
    values |= {"weight_decay": 1e-4, "key_momentum": 0.9, "codes_per_batch": 2, "method": method}
    return Recipe.from_json({**values, "settings": SETTINGS[method], **changes})


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for index in range(sum(SIZES.values())):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return folder


def coded(folder, images, seed=0, sizes=SIZES, children=2):
    digits = [code for code, count in sizes.items() for _ in range(count)]
    return written_codes(folder, open_images(images), np.random.default_rng(seed).permutation(digits), children).folder


@pytest.fixture
def codes(images, tmp_path):
    return coded(tmp_path / "codes", images)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def train(images, codes, out, steps=9, **options):
    given = {"recipe": recipe(), "workers": 0, "device": "cpu", **options}
    return pretrain_supernet(images, SPACE, out=out, codes=codes, steps=steps, **given)


def weights(out):
    return read_tensors(out / SUPERNET)[0]


def test_what_comes_out_is_a_supernet_with_groups_that_says_what_each_sub_net_saw(images, codes, out, tmp_path):
    train(images, codes, out)
    routed = load_routed_supernet(out / SUPERNET)
    assert isinstance(routed.query, RoutedResNet)
    assert (routed.query.groups, routed.query.levels, routed.key.paths) == (2, 2, 4)
    groups, training = routed.info.groups, routed.info.training
    assert (groups.groups, groups.levels) == (2, 2)
    assert groups.codes == training["codes"]["fingerprint"] != ""
    assert (training["codes"]["random"], training["recipe"]["codes_per_batch"]) == (False, 2)
    # All four sub-nets have gone their own ways.
    image = torch.rand(1, 3, 32, 32)
    c5 = [routed.query(image, SPACE.largest, path)[-1] for path in itertools.product(range(2), repeat=2)]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(c5, 2))

    one = load_supernet(out / SUPERNET, sub_net=(1, 0))
    assert torch.equal(one.query(image, SPACE.largest)[-1], routed.query(image, SPACE.largest, (1, 0))[-1])
    assert torch.equal(one.key(image, SPACE.largest)[-1], routed.key(image, SPACE.largest, (1, 0))[-1])
    save_supernet(tmp_path / "one.safetensors", one)
    again = load_supernet(tmp_path / "one.safetensors")
    assert again.info.training["sub_net"] == {"path": [1, 0], "groups": 2, "levels": 2, "codes": groups.codes}


def test_while_there_is_one_sub_net_it_is_trained_as_a_supernet_without_codes(images, codes, tmp_path):
    phases = [1.0, 1e-9, 1e-9]
    train(images, codes, tmp_path / "routed", recipe=recipe(phases=phases))
    train(images, None, tmp_path / "plain", recipe=recipe(codes_per_batch=None))
    plain = load_supernet(tmp_path / "plain" / SUPERNET)
    routed = load_routed_supernet(tmp_path / "routed" / SUPERNET)
    for branch in ("query", "key"):
        expected, found = (getattr(each, branch).state_dict() for each in (plain, routed.along((0, 0))))
        for name, value in expected.items():
            assert torch.equal(found[name], value), name
    for name, value in plain.heads.items():
        assert torch.equal(routed.heads[name], value), name


@pytest.fixture
def training():
    torch.manual_seed(0)
    training = RoutedTraining(SPACE, recipe("byol"), Phases(2, 2, (0, 3, 6)), steps=9, seed=0)
    training.log = training.log_dict = lambda *args, **kwargs: None
    return training.train()


def batch_of(paths, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return Batch([torch.randn(len(paths), 3, 32, 32, generator=generator) for _ in range(2)], [], None, paths)


def test_the_loss_is_the_mean_over_the_images_of_each_sub_nets_own_against_its_own_average(training):
    with torch.no_grad():  # all groups apart, and the averages from the networks
        for value in (*training.query.parameters(), *training.key.parameters()):
            value += 0.05 * torch.randn_like(value)
    batch = batch_of([(0, 1), (0, 1), (1, 0), (0, 1), (1, 0), (0, 1)])
    archs = training.networks(0)
    expected = 0.0
    for path, rows in (((0, 1), [0, 1, 3, 5]), ((1, 0), [2, 4])):
        plain = SupernetTraining(SPACE, recipe("byol", codes_per_batch=None), 9, 0)
        plain.query, plain.key = (branch.along(path) for branch in (training.query, training.key))
        plain.method = training.method
        plain.log = plain.log_dict = lambda *args, **kwargs: None
        alone = Batch([view[rows] for view in batch.views], [])
        expected += len(rows) / 6 * plain.train().training_step(alone, 0).item()
    assert len(archs) == 3
    assert training.training_step(batch, 0).item() == pytest.approx(expected, rel=1e-5)


def test_the_first_step_of_a_phase_has_the_loss_that_it_would_have_without(images, codes, tmp_path, monkeypatch):
    seen = {}

    def recording(name):
        whole = RoutedTraining.training_step

        def training_step(self, batch, batch_idx):
            loss = whole(self, batch, batch_idx)
            seen.setdefault(name, []).append(loss.item())
            return loss

        return training_step

    opened = []
    for name in ("opening", "not opening"):
        with monkeypatch.context() as patch:
            patch.setattr(RoutedTraining, "training_step", recording(name))
            if name == "not opening":  # whatever its path, each sub-net is the first
                patch.setattr(GroupedChannels, "group", lambda self, path: 0)
                patch.setattr(RoutedResNet, "open_groups", lambda self, *args: opened.append(args[0]))
            train(images, codes, tmp_path / name, steps=6, recipe=recipe("byol", phases=[3.0, 2.0, 1.0]))
    assert opened == [0, 0, 1, 1]
    assert seen["opening"][:4] == seen["not opening"][:4]
    assert seen["opening"][4] != seen["not opening"][4]


@pytest.mark.parametrize(
    ("stop", "options"),
    [(3, {}), (7, {}), (7, {"accumulate": 2}), (5, {"init": "supernet"})],
    ids=["at a phase's first step", "in a phase", "in parts", "from weights"],
)
def test_a_resumed_training_ends_with_the_bits_of_an_uninterrupted_one(
    images, codes, tmp_path, monkeypatch, stop, options
):
    if "init" in options:
        options = {"init": random_supernet_file(tmp_path / "init.safetensors")}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(images, codes, whole, checkpoint_every=1, **options)
    with monkeypatch.context() as patch:
        patch.setattr(RoutedTraining, "training_step", killed_at(RoutedTraining, stop))
        with pytest.raises(Killed):
            train(images, codes, parts, checkpoint_every=1, **options)
    torch.manual_seed(99)
    train(images, codes, parts, checkpoint_every=1, resume=True, **options)
    expected, found = (read_tensors(each / CHECKPOINT)[0] for each in (whole, parts))
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(found[part], expected[part], rtol=0, atol=0)
    final = weights(parts)
    assert all(torch.equal(final[name], value) for name, value in weights(whole).items())


def test_a_batch_in_parts_of_a_code_each_trains_as_the_whole_one(images, codes, tmp_path):
    # From the second phase on every sub-net has its own batch either way; in the first all images are one sub-net's.
    options = {"recipe": recipe(phases=[1e-9, 1.0, 1.0]), "precision": "fp64", "steps": 4}
    train(images, codes, tmp_path / "whole", **options)
    train(images, codes, tmp_path / "parts", accumulate=2, **options)
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name, value in expected.items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_sub_nets(images, codes, out, method):
    train(images, codes, out, steps=3, recipe=recipe(method))
    assert load_routed_supernet(out / SUPERNET).info.method == method


def test_a_training_starts_all_sub_nets_from_given_weights(images, codes, out, tmp_path):
    source = load_supernet(random_supernet_file(tmp_path / "source.safetensors"))
    train(images, codes, out, steps=1, init=tmp_path / "source.safetensors", recipe=recipe(lr=1e-12))
    for path in ((0, 0), (1, 1)):
        found = load_supernet(out / SUPERNET, sub_net=path)
        for name, value in source.query.named_parameters():
            assert torch.allclose(found.query.state_dict()[name], value, atol=1e-6), name


def test_the_log_says_how_many_sub_nets_there_are(images, codes, out, monkeypatch):
    monkeypatch.setattr("data_plugin.pretrain.trainer.LOG_EVERY", 1)
    train(images, codes, out, steps=3)
    (log,) = out.glob("logs/*/metrics.csv")
    header, *rows = (line.split(",") for line in log.read_text().split())
    assert [row[header.index("sub-nets")] for row in rows] == ["1.0", "2.0", "4.0"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simsiam", "mocov2"])
def test_two_processes_train_as_one(images, codes, tmp_path, method):
    # A step a phase: parts of four images magnify what is rounded a thousandfold in every step.
    given = {"steps": 3, "recipe": recipe(method), "precision": "fp64"}
    train(images, codes, tmp_path / "one", **given)
    in_processes(tmp_path, 2, partial(train, images, codes, tmp_path / "two", **given))
    found = weights(tmp_path / "two")
    for name, value in weights(tmp_path / "one").items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def command(images, out, *more):
    small = ["--space", "micro", "--recipe", "micro_sdr", "--batch-size", "8", "--image-size", "32", "--steps", "3"]
    small += ["--device", "cpu", "--workers", "0", "--opts", "codes_per_batch=2", "settings.hidden=16"]
    return ["--data", str(images), "--out", str(out), *small, "settings.dim=16", *more]


def test_the_command_trains_sub_nets(images, codes, out, capsys):
    assert main([*command(images, out), "--codes", str(codes)]) == 0
    assert f"supernet: {out / SUPERNET}" in capsys.readouterr().out
    assert load_routed_supernet(out / SUPERNET).query.paths == 4


def refused(capsys, arguments, message, tool=main):
    assert tool(arguments) == 2
    error = capsys.readouterr().err
    assert message in error.replace("\n", " ")
    assert error.count("\n") == 1


def test_codes_that_do_not_fit_are_refused_in_one_sentence(images, codes, out, tmp_path, capsys):
    given = [*command(images, out), "--codes", str(codes)]
    for other in ("a", "b"):
        (tmp_path / other).mkdir()
    for path in images.iterdir():
        (tmp_path / "a" / f"new-{path.name}").write_bytes(path.read_bytes())
        (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "b" / "00.png").unlink()
    refused(capsys, [*given, "--data", str(tmp_path / "a")], "holds codes of other images")
    refused(capsys, [*given, "--data", str(tmp_path / "b")], "are not all of them or have changed since")
    refused(capsys, [*given[:-1], str(tmp_path / "nowhere")], "codes.json cannot be read")
    few = coded(tmp_path / "few", images, sizes={**SIZES, (1, 0): 3, (0, 0): 8})
    refused(
        capsys,
        [*given[:-1], str(few)],
        "the code 1,0 has 3 images, fewer than the 4 that are its part of a batch of 8; expected a smaller batch",
    )
    deep = dict.fromkeys(itertools.product(range(2), repeat=5), 0) | {(0,) * 5: sum(SIZES.values())}
    deep = coded(tmp_path / "deep", images, sizes=deep)
    refused(
        capsys, [*given[:-1], str(deep)], "have 5 levels, and a supernet has groups in 4 stages; expected at most 4"
    )
    assert not out.exists()


def test_recipe_and_codes_have_to_go_together(images, codes, out, capsys):
    refused(capsys, command(images, out), "the recipe trains sub-nets on parts of the images; give their codes")
    plain = [*command(images, out), "--codes", str(codes), "--recipe", "micro_simsiam"]
    plain.remove("codes_per_batch=2")
    refused(capsys, plain, "expected a recipe with codes_per_batch, such as micro_sdr")
    knn = ["--codes", str(codes), "--knn-train", str(images), "--knn-val", str(images)]
    refused(capsys, [*command(images, out), *knn], "a kNN evaluation measures one supernet")
    assert not out.exists()


def test_resuming_with_other_codes_is_refused(images, codes, out, tmp_path):
    train(images, codes, out, steps=2, checkpoint_every=1)
    other = coded(tmp_path / "other", images, seed=1)
    with pytest.raises(UserError, match=r"was trained with codes\.fingerprint \w+, not \w+; resume with the same"):
        train(images, other, out, steps=2, resume=True)
    with pytest.raises(UserError, match=r"was trained with recipe\.codes_per_batch 2, not None"):
        train(images, None, out, steps=2, resume=True, recipe=recipe(codes_per_batch=None))


def test_a_batch_that_cannot_be_dealt_is_refused(images, codes, out):
    with pytest.raises(UserError, match="cannot be shared by 1 processes in 3 parts"):
        train(images, codes, out, accumulate=3)
    with pytest.raises(UserError, match="to be computed in 0 parts; expected at least 1"):
        train(images, codes, out, accumulate=0)
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["codes_per_batch=0"], "codes_per_batch is 0; expected a number from 1 on that divides the batch of 64"),
        (["codes_per_batch=5"], "codes_per_batch is 5; expected"),
        (["phases=[1.0, 0.0]"], r"phases is \[1.0, 0.0\]; expected numbers above 0"),
        (["phases=4"], "phases is 4; expected a list of numbers"),
        (["negatives=queue"], "the negatives are 'queue', which would hold keys of many of them"),
    ],
)
def test_what_a_recipe_cannot_be_is_said(changes, message):
    with pytest.raises(UserError, match=message):
        read_recipe("micro_sdr", changes)
    with pytest.raises(UserError, match="phases are those of a training of sub-nets"):
        read_recipe("micro", ["phases=[1.0, 2.0]"])


@pytest.fixture
def routed_file(images, codes, out):
    train(images, codes, out, steps=1)
    return out / SUPERNET


def test_what_takes_one_supernet_refuses_one_with_sub_nets_and_takes_one_of_them(routed_file, tmp_path):
    with pytest.raises(UserError, match=r"holds 4 sub-nets, and one supernet was expected; .* by --path 0,0$"):
        load_supernet(routed_file)
    with pytest.raises(UserError, match="there is no sub-net 0,2; expected 2 numbers from 0 to 1, such as 0,0"):
        load_supernet(routed_file, sub_net=(0, 2))
    plain = random_supernet_file(tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match="has no sub-nets; leave out the path 0,1"):
        load_supernet(plain, sub_net=(0, 1))
    with pytest.raises(UserError, match="is a supernet without groups; expected one that data-pretrain --codes"):
        load_routed_supernet(plain)


def test_a_training_cannot_start_from_sub_nets(routed_file, images, tmp_path):
    with pytest.raises(UserError, match="holds 4 sub-nets, and one supernet was expected"):
        train(images, None, tmp_path / "next", init=routed_file, recipe=recipe(codes_per_batch=None))


def test_the_header_says_which_groups_there_are(routed_file):
    info = load_routed_supernet(routed_file).info
    assert info.from_json(json.loads(json.dumps(info.to_json()))) == info
    assert "groups" not in dataclasses.replace(info, groups=None).to_json()


@pytest.mark.filterwarnings("ignore:the batch-norm statistics")
def test_a_sub_net_is_embedded_and_evaluated_by_its_path(routed_file, images, tmp_path, capsys):
    features = {}
    for path in ("0,0", "1,0"):
        given = ["--supernet", str(routed_file), "--path", path, "--workers", "0", "--device", "cpu"]
        assert embed.main(["--data", str(images), "--out", str(tmp_path / path), *given]) == 0
        store = EmbeddingStore(tmp_path / path)
        assert store.header.network["path"] == [int(group) for group in path.split(",")]
        features[path] = np.concatenate([block.features for block in store])
        save_supernet(
            tmp_path / "one.safetensors", load_supernet(routed_file, sub_net=tuple(map(int, path.split(","))))
        )
        alone = ["--supernet", str(tmp_path / "one.safetensors"), "--workers", "0", "--device", "cpu"]
        assert embed.main(["--data", str(images), "--out", str(tmp_path / f"alone {path}"), *alone]) == 0
        expected = np.concatenate([block.features for block in EmbeddingStore(tmp_path / f"alone {path}")])
        np.testing.assert_array_equal(features[path], expected)
    assert not np.array_equal(*features.values())

    for label in range(2):
        (tmp_path / "labelled" / str(label)).mkdir(parents=True)
        for index in range(3):
            name = f"{3 * label + index:02}.png"
            (tmp_path / "labelled" / str(label) / name).write_bytes((images / name).read_bytes())
    folders = [argument for side in ("--train", "--val") for argument in (side, str(tmp_path / "labelled"))]
    given = ["knn", "--supernet", str(routed_file), "--arch", "smallest", *folders, "--k", "2", "--workers", "0"]
    given += ["--out", str(tmp_path / "evaluated"), "--device", "cpu", "--batch-size", "3"]
    refused(capsys, given, "holds 4 sub-nets, and one supernet was expected", evaluate.main)
    assert evaluate.main([*given, "--path", "1,0"]) == 0
    assert json.loads((tmp_path / "evaluated" / "knn.json").read_text())["supernet"]["path"] == [1, 0]
    refused(capsys, [*given, "--path", "1,0,0", "--overwrite"], "there is no sub-net 1,0,0; expected 2", evaluate.main)
    with pytest.raises(SystemExit):
        evaluate.main([*given, "--path", "a"])
    assert "'a' was given; expected groups such as 2,0,1,3" in capsys.readouterr().err
