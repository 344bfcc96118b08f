"""What a user types or gives ends in one sentence, with detectron2's configs, labels and weights."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("detectron2", reason="detectron2 is not installed")


from data_plugin import Arch, UserError
from data_plugin.backbones import DATAResNet
from data_plugin.backbones.detectron2 import Trainer
from data_plugin.frameworks.framework_config import FrameworkConfig
from data_plugin.frameworks.registry import DETECTRON2
from data_plugin.supernet.backbone_files import PTH_FILE, save_backbone

SMALL = Arch.parse("d1-1-1-1_w8-8-8-8-8")
QUICK = [
    f"MODEL.DATA_RESNET.ARCH={SMALL}",
    "MODEL.DEVICE=cpu",
    "INPUT.MIN_SIZE_TEST=64",
    "DATALOADER.NUM_WORKERS=0",
    "SOLVER.IMS_PER_BATCH=2",
]
pytestmark = pytest.mark.filterwarnings("ignore:TRAINING DATA IS NOT")


def opened(root: Path, *options: str, config: str = "faster_rcnn_c4_voc") -> FrameworkConfig:
    return DETECTRON2.open(config, [*QUICK, *options], root)


@pytest.fixture
def backbone(tmp_path) -> Path:
    save_backbone(tmp_path / "backbone", DATAResNet(SMALL))
    return tmp_path / "backbone" / PTH_FILE


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("MODEL.DEVICE=abc", "the option 'MODEL.DEVICE=abc' (RuntimeError: "),
        ("MODEL.DEVICE=None", "the option 'MODEL.DEVICE=None' (TypeError: "),
        ("DATALOADER.NUM_WORKERS=None", "the option 'DATALOADER.NUM_WORKERS=None' (TypeError: "),
        ("MODEL.PIXEL_MEAN=None", "the option 'MODEL.PIXEL_MEAN=None' (TypeError: "),
        ("MODEL={}", "the option 'MODEL={}' (ValueError: "),
        ("MODEL.META_ARCHITECTURE=Nothing", "the option 'MODEL.META_ARCHITECTURE=Nothing' (KeyError: "),
        ("MODEL.ROI_HEADS.NAME=Nothing", "the option 'MODEL.ROI_HEADS.NAME=Nothing' (KeyError: "),
        ("MODEL.FPN.IN_FEATURES=3", "the option 'MODEL.FPN.IN_FEATURES=3' (ValueError: "),
        ("INPUT.MIN_SIZE_TEST=abc", "the option 'INPUT.MIN_SIZE_TEST=abc' (ValueError: "),
        ("DATASETS.TRAIN=(1,)", "the option 'DATASETS.TRAIN=(1,)' (TypeError: "),
        ("MODEL.PIXEL_STD=[1]", "std (1.0,) must hold three numbers each"),
        ("INPUT.FORMAT=XYZ", "channel order is 'XYZ'; expected"),
    ],
)
def test_an_option_that_does_not_fit_is_named(drawn_voc, option, words):
    found = refusal(lambda: ask(opened(drawn_voc, "SOLVER.MAX_ITER=3", option, "SOLVER.BASE_LR=0.1")))
    assert words in found
    assert "\n" not in found


def ask(config: FrameworkConfig) -> None:
    _ = config.input_format, config.taps, config.resolution, config.images()[0]


def refusal(action: Callable[[], object]) -> str:
    """The sentence with which an action is refused; empty if it is not."""
    try:
        action()
    except UserError as error:
        return str(error)
    return ""


@pytest.fixture
def _no_training(monkeypatch):
    """Everything but the steps themselves."""
    monkeypatch.setattr(Trainer, "train", lambda self: setattr(self, "_last_eval_results", {}))


@pytest.mark.slow
@pytest.mark.usefixtures("_no_training")
@pytest.mark.filterwarnings("ignore")
def test_any_file_is_trained_with_or_refused_in_one_sentence(drawn_voc, backbone, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(drawn_voc, root)
    opened(drawn_voc, f"MODEL.WEIGHTS={backbone}").write(SMALL, backbone, tmp_path / "winner.yaml")
    annotations = sorted((root / "VOC2007" / "Annotations").glob("0*.xml"))[:2]
    files = [backbone, tmp_path / "winner.yaml", *annotations, root / "VOC2007" / "ImageSets" / "Main" / "test.txt"]
    whole = {path: path.read_bytes() for path in files}
    draw, found = random.Random(0), []
    for _ in range(100):
        path = draw.choice(files)
        path.write_bytes(mutated(whole[path], draw))
        print(path)  # shown where another exception ends the test
        found.append(refusal(lambda: opened(root, config=str(tmp_path / "winner.yaml")).finetune(tmp_path / "out")))
        path.write_bytes(whole[path])
    assert not [sentence for sentence in found if "\n" in sentence]
    assert 10 < sum(map(bool, found)) < 100


def mutated(contents: bytes, draw: random.Random) -> bytes:
    """A file with a part left out, doubled or replaced by bytes that are no text."""
    start = draw.randrange(len(contents))
    end = min(len(contents), start + draw.choice((1, 5, 40, len(contents))))
    middle = draw.choice((b"", 2 * contents[start:end], b"\xff\x00\xfe", b"{[(", b"'", b"\n"))
    return contents[:start] + middle + contents[end:]
