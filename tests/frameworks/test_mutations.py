"""What a user types never ends in a traceback: options and files at random, in every installed framework."""

import importlib
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_plugin import Arch
from data_plugin.frameworks.framework_config import FrameworkConfig
from data_plugin.utils.errors import UserError

ARCH = Arch.parse("d1-1-1-1_w8-8-12-16-24")
COUNT = 500
VALUES = (
    "", "None", "True", "0", "-1", "3", "1.5", "9999999", "nan", "abc", "[]", "{}", "()", "[0]", "[None]", "[1,2,3]",
    "(3,(1)", "a,b", "[[1]]", "dict(a=1)", "'", "=", "ResNet", "../..", "é",
)  # fmt: skip
FINETUNED = {"detectron2": 80, "mmdet": 50, "mmseg": 50}
"""How many options are fine-tuned with; detectron2 refuses most by their type."""

LATE = {
    "detectron2": ("TEST.DETECTIONS_PER_IMAGE=None", "MODEL.ROI_HEADS.NMS_THRESH_TEST=None", "INPUT.MIN_SIZE_TEST=-4"),
    "mmdet": (
        "val_dataloader.dataset.pipeline=[]",
        "default_hooks.checkpoint.interval=abc",
        "log_processor.window_size=abc",
        "model.test_cfg.rcnn.nms.iou_threshold=abc",
    ),
    "mmseg": (
        "val_dataloader.dataset.pipeline=[]",
        "default_hooks.checkpoint.interval=abc",
        "log_processor.window_size=abc",
        "model.test_cfg.mode=abc",
    ),
}
"""Options that a framework needs for the first time when it logs, saves or evaluates."""


def keys(framework: str, path: Path) -> list[str]:
    """Keys of a config, at every depth."""
    if framework == "detectron2":
        get_cfg = importlib.import_module("detectron2.config").get_cfg
        adapter = importlib.import_module("data_plugin.backbones.detectron2")
        config = get_cfg()
        adapter.add_data_resnet_config(config)
    else:
        config = importlib.import_module("mmengine.config").Config.fromfile(path)._cfg_dict.to_dict()
    return list(_keys(config))


def _keys(node: Any, at: str = "") -> Iterator[str]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, child in children:
        yield f"{at}{key}"
        yield from _keys(child, f"{at}{key}.")


def ask_everything(config: FrameworkConfig, out: Path) -> None:
    assert set(config.taps) <= {"C2", "C3", "C4", "C5"}
    _ = config.resolution, config.input_format
    images = config.images()
    for index in range(min(2, len(images))):
        assert images[index].pixels.shape[0] == 3
    config.write(ARCH, out / "backbone.pth", out / "config")


def is_refused(ask: Callable[[], None], mutation: object) -> bool:
    """Whether a question ends in a sentence for the user, and not in any other exception."""
    try:
        ask()
    except UserError as error:
        said = str(error)
    except Exception as error:
        pytest.fail(f"{mutation} ended in {error!r}")
    else:
        return False
    assert said.strip(), mutation
    assert "\n" not in said, mutation
    return True


def mutated(text: bytes, draw: random.Random) -> bytes:
    """A file with a part left out, doubled or replaced by bytes that are no text."""
    start = draw.randrange(len(text))
    end = min(len(text), start + draw.choice((1, 5, 40, len(text))))
    return text[:start] + draw.choice((b"", 2 * text[start:end], b"\xff\x00\xfe", b"{[(", b"'", b"\n")) + text[end:]


@pytest.fixture
def _no_more_memory_than_a_machine_has():
    """A number that asks for terabytes shall be refused by the system, not end the tests."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_option_that_is_needed_late_is_named_before_the_training(example, winner: Path, tmp_path: Path):
    for option in LATE[example.framework.name]:
        config = example.framework.open(str(winner), [option], example.data_root)
        with pytest.raises(UserError, match=re.escape(f"cannot use the option {option!r} (")):
            config.finetune(tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("_no_more_memory_than_a_machine_has")
@pytest.mark.filterwarnings("ignore")
def test_any_option_is_trained_with_or_refused_in_one_sentence(example, winner: Path, tmp_path: Path):
    draw = random.Random(0)
    short = {option.partition("=")[0] for option in example.short}  # with other values a training may take for ever
    known = [key for key in keys(example.framework.name, winner) if key not in short]

    def finetune(option: str) -> None:
        example.framework.open(str(winner), [option], example.data_root).finetune(tmp_path / "out")

    refused = 0
    count = FINETUNED[example.framework.name]
    for _ in range(count):
        option = f"{draw.choice(known)}={draw.choice(VALUES)}"
        refused += is_refused(lambda option=option: finetune(option), option)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert 0 < refused < count


@pytest.mark.slow
@pytest.mark.usefixtures("_no_more_memory_than_a_machine_has")
@pytest.mark.filterwarnings("ignore")
def test_any_option_is_taken_or_refused_in_one_sentence(example, tmp_path: Path):
    draw = random.Random(0)
    known = keys(example.framework.name, example.framework.configs.find(example.config))
    refused = 0
    for _ in range(COUNT):
        options = []
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            key = draw.choice(known)
            if draw.random() < 0.1:
                key = draw.choice((key[:-1], key + ".x", key + ".0", key.lower(), "." + key, ""))
            options.append(draw.choice(("{}={}", "{}={}", "{}={}", "{}", "{}=={}")).format(key, draw.choice(VALUES)))
        refused += is_refused(lambda options=options: ask_everything(example.open(*options), tmp_path), options)
    assert COUNT / 10 < refused < COUNT


@pytest.mark.slow
@pytest.mark.usefixtures("_no_more_memory_than_a_machine_has")
@pytest.mark.filterwarnings("ignore")
def test_any_file_is_read_or_refused_in_one_sentence(example, tmp_path: Path):
    draw = random.Random(0)
    root = tmp_path / "data"
    shutil.copytree(example.data_root, root)
    config = tmp_path / f"config{example.framework.configs.ending}"
    example.open().write(ARCH, tmp_path / "backbone.pth", config)
    lists = sorted(root.rglob("trainval.txt"))
    images = sorted(root.rglob("*.jpg"))[:3] + sorted(root.rglob("*_leftImg8bit.png"))[:3]
    files = [*(3 * [config]), *lists, *images]
    whole = {path: path.read_bytes() for path in files}

    def ask() -> None:
        ask_everything(example.framework.open(str(config), example.small, root), tmp_path / "out")

    refused = 0
    for _ in range(COUNT // 5):
        path = draw.choice(files)
        path.write_bytes(mutated(whole[path], draw))
        refused += is_refused(ask, path.name)
        path.write_bytes(whole[path])
    assert COUNT // 50 < refused < COUNT // 5
