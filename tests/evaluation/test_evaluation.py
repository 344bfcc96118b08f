import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from samples import SPACE, random_supernet_file

from data_plugin import Arch, SearchSpace, UserError
from data_plugin.backbones import DynamicResNet, extract
from data_plugin.images.input_format import InputFormat
from data_plugin.supernet.backbone_files import save_backbone
from data_plugin.supernet.calibration import calibrate
from data_plugin.supernet.checkpoint import Supernet, SupernetInfo, load_supernet, save_supernet
from data_plugin.supernet.named_networks import named_networks

pytest.importorskip("lightly", reason="evaluation needs lightly")
pytest.importorskip("lightning", reason="evaluation needs lightning")
pytest.importorskip("torchmetrics", reason="evaluation needs torchmetrics")
pytest.importorskip("torchvision", reason="evaluation needs torchvision")

from data_plugin.evaluation.classification import CHECKPOINT, LINEAR, SEMISUP, ClassifierRecipe, Classifiers
from data_plugin.evaluation.images import AugmentedImages
from data_plugin.evaluation.knn import knn_accuracy
from data_plugin.evaluation.run import open_evaluation
from data_plugin.features.pooled import CalibratedNetworks, labelled_features
from data_plugin.images.calibration import calibration_images
from data_plugin.images.crops import centre_crop, random_crop
from data_plugin.images.labelled import labelled_folder, labelled_part
from data_plugin.tools.evaluate import main

MIDDLE = Arch.parse("d2-1-3-1_w4-8-8-16-16")
ARCHS = [SPACE.smallest, MIDDLE, SPACE.largest]
COLOURS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40)}
QUICK = ClassifierRecipe(
    epochs=8, batch_size=6, head_lr=0.1, network_lr=0.003, weight_decay=0.0, decay_at=(0.75,), decay_by=0.1
)


@pytest.fixture
def folders(tmp_path):
    """Noisy images of three colours, 6 a class to train on and 3 to measure."""
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for name, colour in COLOURS.items():
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = random.normal(colour, 30, (36, 40, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "train", tmp_path / "val"


@pytest.fixture
def supernet(tmp_path):
    torch.manual_seed(0)
    info = SupernetInfo(SPACE, "mocov2", InputFormat.imagenet(), {"image_size": 32})
    path = tmp_path / "supernet.safetensors"
    save_supernet(path, Supernet(info, DynamicResNet(SPACE), DynamicResNet(SPACE)))
    return path


@pytest.fixture
def evaluation(supernet, folders):
    names = [str(arch) for arch in ARCHS]
    return open_evaluation(supernet, names, *folders, device="cpu", calibration=18, batch_size=6)[0]


def test_the_shipped_supernet_is_measured_by_its_name(shipped, folders):
    evaluation, settings = open_evaluation("shipped", ["smallest"], *folders, device="cpu", calibration=18)
    assert torch.equal(evaluation.supernet.conv1.weight, load_supernet(shipped).query.conv1.weight)
    assert (settings["supernet"]["file"], settings["supernet"]["saw_labels"]) == ("shipped", True)


def command(name, supernet, folders, *more, out=None):
    train, val = folders
    return [
        name,
        *("--supernet", str(supernet), "--train", str(train), "--val", str(val)),
        *("--out", str(out or train.parent / "out"), "--device", "cpu", "--calibration", "18", "--batch-size", "6"),
        *("--workers", "0"),
        *map(str, more),
    ]


def guesses(train, train_labels, test, k, temperature):
    """Wu et al. (2018), equation in section 3.4, image by image: classes by falling weight."""
    ranked = []
    for query in test:
        similarity = [float(query @ key / (np.linalg.norm(query) * np.linalg.norm(key))) for key in train]
        weights = dict.fromkeys(range(max(train_labels) + 1), 0.0)
        for index in sorted(range(len(train)), key=lambda i: -similarity[i])[:k]:
            weights[train_labels[index]] += math.exp(similarity[index] / temperature)
        ranked.append(sorted(weights, key=lambda label: -weights[label]))
    return ranked


def test_knn_votes_as_the_paper_defines(monkeypatch):
    monkeypatch.setattr("data_plugin.evaluation.knn.CHUNK", 7)
    random = np.random.default_rng(1)
    centres = random.normal(size=(8, 6))
    labels, test_labels = random.integers(0, 8, 60), random.integers(0, 8, 40)
    train = centres[labels] + random.normal(size=(60, 6))
    test = centres[test_labels] + random.normal(size=(40, 6))
    expected = guesses(train, labels.tolist(), test, k=15, temperature=0.2)
    top1 = np.mean([found[0] == label for found, label in zip(expected, test_labels, strict=True)])
    top5 = np.mean([label in found[:5] for found, label in zip(expected, test_labels, strict=True)])
    tensors = [torch.from_numpy(array) for array in (train, labels, test, test_labels)]
    assert 0.2 < top1 < top5 < 1
    assert knn_accuracy(*tensors, k=15, temperature=0.2) == pytest.approx((top1, top5))


@pytest.mark.parametrize(
    ("k", "temperature", "message"), [(11, 0.1, "k is 11.*10"), (0, 0.1, "k is 0"), (5, 0.01, "0.02")]
)
def test_knn_refuses_what_it_cannot_vote_with(k, temperature, message):
    features, labels = torch.rand(10, 4), torch.arange(10)
    with pytest.raises(UserError, match=message):
        knn_accuracy(features, labels, features, labels, k, temperature)


def test_features_are_those_of_each_network_extracted_and_calibrated():
    supernet = DynamicResNet(SPACE).train()
    with torch.no_grad():
        for name, value in supernet.state_dict().items():
            if "bn" in name or "downsample.1" in name:
                value.copy_(torch.rand_like(value.float()) + 0.5)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    calibration = [torch.randn(8, 3, 32, 32), 2 * torch.randn(8, 3, 32, 32)]
    batches = [(torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 2])), (torch.randn(2, 3, 32, 32), torch.tensor([2, 0]))]

    features, labels = labelled_features(CalibratedNetworks(supernet, [*ARCHS, MIDDLE], calibration), batches)

    assert labels.tolist() == [0, 1, 2, 2, 0]
    assert set(features) == set(ARCHS)
    for arch in ARCHS:
        network = extract(supernet, arch)
        calibrate([network], calibration)
        with torch.no_grad():
            expected = torch.cat([network.eval()(images)[-1].mean(dim=(2, 3)) for images, _ in batches])
        torch.testing.assert_close(features[arch], expected, rtol=1e-4, atol=1e-5)
    assert supernet.training
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def test_features_need_images_to_calibrate_on_and_networks_of_the_supernet():
    supernet = DynamicResNet(SPACE)
    with pytest.raises(UserError, match="at least one batch"):
        CalibratedNetworks(supernet, ARCHS, [])
    with pytest.raises(UserError, match="does not fit inside"):
        CalibratedNetworks(supernet, [Arch.resnet50()], [torch.rand(2, 3, 32, 32)])


def test_networks_are_named_in_every_way(tmp_path):
    space = SearchSpace.micro()  # one whose middle network is not its smallest
    save_backbone(tmp_path / "winner", extract(DynamicResNet(space), MIDDLE))
    names = [
        "smallest",
        "middle",
        "largest",
        str(MIDDLE),
        str(tmp_path / "winner"),
        str(tmp_path / "winner" / "arch.json"),
    ]
    assert named_networks(names, space) == [space.smallest, space.middle, space.largest, MIDDLE]
    with pytest.raises(UserError, match="is not an architecture"):
        named_networks(["medium-sized"], space)
    with pytest.raises(UserError, match="is not text"):
        named_networks([str(tmp_path / "winner" / "backbone.pth")], space)


def test_the_labelled_part_is_the_same_of_every_class():
    labels = [0] * 40 + [1] * 20 + [2] * 3
    drawn = labelled_part(labels, 0.1, seed=3)
    assert [sum(labels[index] == label for index in drawn) for label in range(3)] == [4, 2, 1]
    assert len(set(drawn)) == len(drawn)
    assert drawn == labelled_part(labels, 0.1, seed=3)
    assert drawn != labelled_part(labels, 0.1, seed=4)
    assert labelled_part(labels, 1, seed=0) == list(range(63))
    for fraction in (0, -0.1, 1.01):
        with pytest.raises(UserError, match="more than 0 %"):
            labelled_part(labels, fraction, seed=0)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_images_reach_the_network_in_its_format(order):
    mean, std = (10.0, 20.0, 30.0), (2.0, 4.0, 5.0)
    image = Image.new("RGB", (50, 40), (100, 60, 20))
    channels = (100, 60, 20) if order == "RGB" else (20, 60, 100)
    expected = [(value - m) / s for value, m, s in zip(channels, mean, std, strict=True)]
    for transform in (centre_crop, random_crop):
        found = transform(32, InputFormat(order, mean, std))(image)
        torch.testing.assert_close(found, torch.tensor(expected).view(3, 1, 1).expand(3, 32, 32))


def test_crops_depend_on_seed_epoch_and_image_alone(folders):
    images = labelled_folder(folders[0])
    views = AugmentedImages(images, random_crop(32, InputFormat.imagenet()), seed=0)
    state = torch.get_rng_state()
    first, label = views[2, 7]
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    assert torch.equal(views[2, 7][0], first)
    assert label == images.targets[7]
    others = [views[3, 7][0], views[2, 8][0], AugmentedImages(images, views.transform, seed=1)[2, 7][0]]
    assert not any(torch.equal(first, other) for other in others)


def test_calibration_leaves_out_a_batch_that_is_not_full(folders):
    transform = centre_crop(16, InputFormat.imagenet())
    assert [len(batch) for batch in calibration_images(folders[0], transform, 15, 4, seed=0)] == [4, 4, 4]
    assert [len(batch) for batch in calibration_images(folders[0], transform, 100, 256, seed=0)] == [18]
    with pytest.raises(UserError, match="0 images to calibrate on"):
        calibration_images(folders[0], transform, 0, 4, seed=0)


def test_the_protocols_fall_as_published():
    for recipe, expected in (
        (LINEAR, {0: 30, 59: 30, 60: 3, 79: 3, 80: 0.3, 99: 0.3}),
        (SEMISUP, {0: 1.0, 11: 1.0, 12: 0.2, 15: 0.2, 16: 0.04, 19: 0.04}),
    ):
        classifiers = Classifiers(lambda images: {}, {MIDDLE: 16}, 3, recipe)
        (optimizer,), (schedule,) = classifiers.configure_optimizers()
        rates = []
        for _ in range(recipe.epochs):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        assert {epoch: rates[epoch] for epoch in expected} == pytest.approx(expected)


def state_dict(folder):
    return torch.load(folder / CHECKPOINT, weights_only=True)["state_dict"]


def test_linear_evaluation_trains_each_network_as_if_alone_and_no_backbone(evaluation, tmp_path):
    before = {name: value.clone() for name, value in evaluation.supernet.state_dict().items()}
    found = evaluation.linear(QUICK, tmp_path / "all")
    assert list(found) == ARCHS
    assert all(torch.equal(value, before[name]) for name, value in evaluation.supernet.state_dict().items())
    assert max(accuracy.top1 for accuracy in found.values()) > 0.8
    assert all(accuracy.top5 == 1 for accuracy in found.values())
    together = state_dict(tmp_path / "all")
    assert all(name.startswith("heads.") for name in together)
    first = dataclasses.replace(evaluation, archs=ARCHS[:1])
    assert first.linear(QUICK, tmp_path / "one") == {ARCHS[0]: found[ARCHS[0]]}
    for name, value in state_dict(tmp_path / "one").items():
        torch.testing.assert_close(value, together[name])


def test_fine_tuning_trains_the_whole_network_on_the_labelled_part(evaluation, tmp_path, monkeypatch):
    seen = set()
    read = AugmentedImages.__getitem__

    def noted(self, draw):
        seen.add(draw[1])
        return read(self, draw)

    monkeypatch.setattr(AugmentedImages, "__getitem__", noted)
    before = {name: value.clone() for name, value in evaluation.supernet.state_dict().items()}
    found = dataclasses.replace(evaluation, archs=ARCHS[:2]).semisup(QUICK, 0.5, tmp_path)
    assert list(found) == ARCHS[:2]
    assert sorted(seen) == labelled_part(evaluation.train.targets, 0.5, seed=0)
    assert max(accuracy.top1 for accuracy in found.values()) > 0.8
    assert all(torch.equal(value, before[name]) for name, value in evaluation.supernet.state_dict().items())
    trained = state_dict(tmp_path / str(MIDDLE))
    assert not torch.equal(trained["features.network.conv1.weight"], before["conv1.weight"][: MIDDLE.stem])
    assert trained["features.network.bn1.num_batches_tracked"] == 18 // 6 + QUICK.epochs * (9 // 6)


@pytest.mark.parametrize("kind", ["linear", "semisup"])
def test_a_killed_training_resumes_to_the_same_bits(evaluation, tmp_path, monkeypatch, kind):
    recipe = dataclasses.replace(QUICK, epochs=2)

    def run(folder, **options):
        some = dataclasses.replace(evaluation, archs=ARCHS[:2])
        return (
            some.linear(recipe, folder, **options) if kind == "linear" else some.semisup(recipe, 1, folder, **options)
        )

    whole = run(tmp_path / "whole")
    step = Classifiers.training_step

    def killed(self, batch, batch_idx):
        if self.current_epoch == 1 and self.heads.keys() & {str(ARCHS[1])}:
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(Classifiers, "training_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            run(tmp_path / "parts")
    assert run(tmp_path / "parts", resume=True) == whole
    for checkpoint in sorted((tmp_path / "whole").rglob(CHECKPOINT)):
        again = state_dict(tmp_path / "parts" / checkpoint.parent.relative_to(tmp_path / "whole"))
        for name, value in state_dict(checkpoint.parent).items():
            assert torch.equal(value, again[name]), name


def test_other_settings_cannot_resume(evaluation, tmp_path):
    recipe = dataclasses.replace(QUICK, epochs=1)
    evaluation.linear(recipe, tmp_path)
    with pytest.raises(UserError, match=r"trained with head_lr 0[.]1, not 2"):
        evaluation.linear(dataclasses.replace(recipe, head_lr=2), tmp_path, resume=True)
    with torch.no_grad():
        evaluation.supernet.conv1.weight[0, 0, 0, 0] += 1
    with pytest.raises(UserError, match="was trained with weights"):
        evaluation.linear(recipe, tmp_path, resume=True)


def test_a_loss_that_is_not_finite_stops_with_the_reason(evaluation, tmp_path):
    with pytest.raises(UserError, match=r"the loss is nan at step .* lower the learning rate"):
        evaluation.semisup(dataclasses.replace(QUICK, network_lr=1e20), 1, tmp_path)


@pytest.mark.parametrize(("name", "value"), [("epochs", 0), ("head_lr", -1.0), ("network_lr", math.nan)])
def test_recipes_are_checked(name, value):
    with pytest.raises(UserError, match=name.replace("_", " ")):
        dataclasses.replace(QUICK, **{name: value})


def test_tool_measures_neighbours_and_writes_what_decides_them(supernet, folders, tmp_path, capsys):
    more = ("--arch", "smallest", "largest", "--k", 4, "--temperature", 0.1)
    assert main(command("knn", supernet, folders, *more)) == 0
    written = json.loads((tmp_path / "out" / "knn.json").read_text())
    assert (written["weights"], written["k"], written["image_size"]) == ("trained", 4, 32)
    query = load_supernet(supernet).query
    transform = centre_crop(32, InputFormat.imagenet())
    calibration = list(calibration_images(folders[0], transform, 18, 6, seed=0))
    train, val = (labelled_folder(folder) for folder in folders)
    for row, arch in zip(written["results"], (SPACE.smallest, SPACE.largest), strict=True):
        network = extract(query, arch)
        calibrate([network], calibration)
        with torch.no_grad():
            features = [
                torch.cat([network(transform(image)[None])[-1].mean(dim=(2, 3)) for image, _ in images]).numpy()
                for images in (train, val)
            ]
        expected = guesses(features[0], train.targets, features[1], 4, 0.1)
        top1 = np.mean([found[0] == label for found, label in zip(expected, val.targets, strict=True)])
        assert row["arch"] == str(arch)
        assert row["top1"] == pytest.approx(top1)
    table = (tmp_path / "out" / "knn.csv").read_text().splitlines()
    assert table[0] == "arch,flops,params,top1,top5"
    assert len(table) == 3
    assert str(SPACE.largest) in capsys.readouterr().out
    assert main(command("knn", supernet, folders, *more)) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(command("knn", supernet, folders, *more, "--overwrite")) == 0
    assert json.loads((tmp_path / "out" / "knn.json").read_text()) == written


def test_untrained_weights_are_drawn_from_the_seed(supernet, folders):
    opened, settings = open_evaluation(supernet, ["smallest"], *folders, device="cpu", untrained=True, seed=5)
    torch.manual_seed(5)
    expected = DynamicResNet(SPACE).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in opened.supernet.state_dict().items())
    assert settings["weights"] == "untrained"


def test_tool_trains_resumes_and_says_when_there_is_nothing_to(supernet, folders, tmp_path, capsys):
    more = ("--arch", "smallest", "--epochs", 1)
    assert main(command("linear", supernet, folders, *more, "--resume")) == 2
    assert "nothing to resume" in capsys.readouterr().err
    assert main(command("linear", supernet, folders, *more)) == 0
    first = (tmp_path / "out" / "linear.csv").read_text()
    assert main(command("linear", supernet, folders, *more, "--resume")) == 0
    assert (tmp_path / "out" / "linear.csv").read_text() == first
    assert main(command("semisup", supernet, folders, *more, "--labels", "10%", "--network-lr", 0.5)) == 0
    written = json.loads((tmp_path / "out" / "semisup.json").read_text())
    assert written["labels"] == pytest.approx(0.1)
    assert written["recipe"]["network_lr"] == 0.5


@pytest.mark.parametrize("labels", ["0%", "101%", "0.1", "ten%", "nan%"])
def test_tool_refuses_labelled_parts_out_of_range(supernet, folders, capsys, labels):
    assert main(command("semisup", supernet, folders, "--arch", "smallest", "--labels", labels)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "%" in error


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--arch", "smallest"), "k is 200, but there are 18 training images"),
        (("--arch", Arch.resnet50()), "does not fit inside this supernet"),
        (("--arch", "medium"), "is not an architecture"),
        (("--arch", "smallest", "--k", 3, "--image-size", "0"), "image size is 0"),
        (("--arch", "smallest", "--batch-size", "0"), "batch size is 0"),
        (("--arch", "smallest", "--calibration", "0"), "calibration is 0"),
        (("--arch", "smallest", "--val", "nowhere"), "nowhere is not a folder"),
        (("--arch", "smallest", "--device", "abacus"), "'abacus' cannot be used"),
    ],
)
def test_tool_refuses_in_one_sentence(supernet, folders, tmp_path, capsys, more, message):
    assert main(command("knn", supernet, folders, *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_folders_with_other_classes_are_refused(supernet, folders, capsys):
    (folders[1] / "red").rename(folders[1] / "crimson")
    assert main(command("knn", supernet, folders, "--arch", "smallest")) == 2
    assert "different classes: red only in the first" in capsys.readouterr().err


def test_folders_without_classes_are_refused(folders, tmp_path):
    (folders[0] / "empty").mkdir()
    with pytest.raises(UserError, match=r"does not hold a sub-folder of images for each class: .*empty"):
        labelled_folder(folders[0])
    with pytest.raises(UserError, match="does not hold a sub-folder"):
        labelled_folder(folders[1] / "red")
    (tmp_path / "single").mkdir()
    (folders[1] / "red").rename(tmp_path / "single" / "red")
    with pytest.raises(UserError, match="holds one class, red"):
        labelled_folder(tmp_path / "single")


def test_a_supernet_of_unknown_image_size_needs_one(folders, tmp_path, capsys):
    arguments = command(
        "knn", random_supernet_file(tmp_path / "s.safetensors"), folders, "--arch", "smallest", "--k", 3
    )
    assert main(arguments) == 2
    assert "--image-size" in capsys.readouterr().err
    assert main([*arguments, "--image-size", "16"]) == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(supernet, folders, capsys, workers):
    broken = folders[1] / "green" / "1.png"
    broken.write_bytes(broken.read_bytes()[:90])
    assert main(command("knn", supernet, folders, "--arch", "smallest", "--k", 3, "--workers", workers)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"error: the image {broken} cannot be read; replace or remove it"
