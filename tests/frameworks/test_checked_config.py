"""Which option is named when a framework fails, by a framework that fails as it is told to."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch

from data_plugin import Arch
from data_plugin.frameworks.checked_config import CheckedConfig
from data_plugin.frameworks.framework_config import FrameworkConfig
from data_plugin.images.batch import ImageSource, LoadedImage, draw_batches
from data_plugin.images.image_files import Images
from data_plugin.images.input_format import InputFormat
from data_plugin.space.resolution import Resolution
from data_plugin.utils.errors import UserError

ARCH = Arch.parse("d1-1-1-1_w8-8-12-16-24")


class Touchy(FrameworkConfig):
    """A config whose options name what shall fail: ``taps=1`` lets :attr:`taps` fail, ``taps=0`` mends that."""

    def __init__(
        self,
        path: Path,
        options: Sequence[str] = (),
        data_root: Path | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.path = path
        self.failing = dict(option.split("=") for option in options)
        self.may("read")

    def may(self, what: str) -> None:
        if self.failing.get(what, "0") == "refused":
            raise UserError(f"{what} is refused")
        if self.failing.get(what, "0") == "1":
            raise TypeError(f"{what} does not fit\nand more")

    @property
    def input_format(self) -> InputFormat:
        self.may("input_format")
        return InputFormat.imagenet()

    @property
    def taps(self) -> tuple[str, ...]:
        self.may("taps")
        return ("C5",)

    @property
    def resolution(self) -> Resolution:
        self.may("resolution")
        return Resolution()

    @property
    def data_sets(self) -> Sequence[str]:
        return ["touchy"]

    @property
    def lacking(self) -> Sequence[str]:
        return []

    def images(self) -> ImageSource:
        self.may("images")
        return TouchyImages(self)

    def images_of(self, images: Images) -> ImageSource:
        return self.images()

    def write(self, arch: Arch, weights: Path, path: Path, iterations: int | None = None) -> None:
        path.write_text(f"{self.failing}")
        self.may("write")

    def finetune(
        self,
        out: Path,
        *,
        resume: bool = False,
        eval_only: bool = False,
        weights: Path | None = None,
        stepped: Callable[[int], None] = lambda step: None,
    ) -> Mapping[str, float]:
        out.mkdir(exist_ok=True)
        self.may("build")
        stepped(1)
        self.may("train")
        return {"AP": 1.0}


class TouchyImages(ImageSource):
    def __init__(self, config: Touchy) -> None:
        super().__init__(["a.jpg", "b.jpg"], config.failing.get("workers", 0))
        self.config = config

    def __getitem__(self, index: int) -> LoadedImage:
        self.config.may("image")
        return LoadedImage(torch.zeros(3, 2, 2), (2, 2))


def checked(*options: str) -> CheckedConfig:
    return CheckedConfig(Touchy, "Touchy", Path("touchy.cfg"), options)


ASKED = {
    "read": lambda *options: checked(*options),
    "write": lambda *options: checked(*options),
    "taps": lambda *options: checked(*options).taps,
    "resolution": lambda *options: checked(*options).resolution,
    "input_format": lambda *options: checked(*options).input_format,
    "images": lambda *options: checked(*options).images(),
    "image": lambda *options: list(draw_batches(checked(*options).images(), None, 1, 0)),
}


@pytest.mark.parametrize("what", ASKED)
def test_the_option_that_does_not_fit_is_named(what):
    message = rf"^Touchy cannot use the option '{what}=1' \(TypeError: {what} does not fit\)$"
    for options in ([f"{what}=1"], ["a=1", f"{what}=1", "b=1"], [f"{what}=1", f"{what}=0", f"{what}=1"]):
        with pytest.raises(UserError, match=message):
            ASKED[what](*options)
    ASKED[what](f"{what}=1", f"{what}=0")


def test_of_several_the_last_without_which_it_works_is_named():
    with pytest.raises(UserError, match="option 'read=1'"):
        checked("read=1", "taps=1")
    with pytest.raises(UserError, match="option 'taps=1'"):
        _ = checked("taps=1", "resolution=1").taps


def test_what_the_adapter_refuses_itself_is_left_as_it_is():
    with pytest.raises(UserError, match=r"^taps is refused$"):
        _ = checked("taps=refused").taps
    # Refused without the options is not failed with them.
    with pytest.raises(UserError, match="option 'taps=1'"):
        _ = checked("taps=refused", "taps=1").taps


def test_the_config_is_named_where_no_option_is_at_fault(monkeypatch):
    def fail(self: Touchy, what: str) -> None:
        raise KeyError("model")

    monkeypatch.setattr(Touchy, "may", fail)
    for options in ([], ["a=1"]):
        with pytest.raises(UserError, match=r"^Touchy cannot use the config touchy.cfg \(KeyError: 'model'\)$"):
            checked(*options)


def test_what_fails_once_is_no_fault_of_the_config(tmp_path):
    class Once(Touchy):
        failed = False

        def may(self, what: str) -> None:
            if what == "taps" and not Once.failed:
                Once.failed = True
                raise MemoryError

    with pytest.raises(MemoryError):
        _ = CheckedConfig(Once, "Once", Path("once.cfg"), ["a=1"]).taps


def test_a_disk_that_is_full_is_no_fault_of_the_config(tmp_path):
    config = checked("a=1")
    with pytest.raises(FileNotFoundError):
        config.write(ARCH, tmp_path / "w.pth", tmp_path / "missing" / "config")
    config.write(ARCH, tmp_path / "w.pth", tmp_path / "config")
    assert (tmp_path / "config").is_file()


def test_training_that_does_not_begin_names_the_option_and_leaves_nothing(tmp_path, capsys):
    message = r"^Touchy cannot use the option 'build=1' \(TypeError: build does not fit\)$"
    for options in (["build=1"], ["a=1", "build=1", "train=1"]):
        with pytest.raises(UserError, match=message):
            checked(*options).finetune(tmp_path / "out")
        assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(UserError, match=message):
        checked("build=1").finetune(tmp_path / "out")
    assert (tmp_path / "out" / "old").exists()


def test_processes_together_are_not_begun_again(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"^Touchy cannot run with the options a=1 build=1 \(TypeError: build does not"):
        checked("a=1", "build=1").finetune(tmp_path / "out")


def test_training_that_fails_later_names_the_options_and_keeps_its_files(tmp_path):
    out = tmp_path / "out"
    expected = (
        r"^Touchy stopped {} \(TypeError: train does not fit\); if it is one of the options a=1 train=1, correct "
        rf"it and {{}}; the traceback is in {out}/traceback.txt$"
    )
    with pytest.raises(UserError, match=expected.format("after step 1", "start again")):
        checked("a=1", "train=1").finetune(out)
    written = (out / "traceback.txt").read_text()
    assert written.startswith("Traceback")
    assert written.endswith("TypeError: train does not fit\nand more\n")
    (out / "last_checkpoint").touch()
    with pytest.raises(UserError, match=expected.format("after step 1", "go on with --resume")):
        checked("a=1", "train=1").finetune(out)
    with pytest.raises(UserError, match=expected.format("in the evaluation", "go on with --resume")):
        checked("a=1", "train=1").finetune(out, eval_only=True)
    with pytest.raises(UserError, match=r"^train is refused$"):
        checked("a=1", "train=refused").finetune(out)
    assert checked("a=1").finetune(out) == {"AP": 1.0}


def test_training_that_fails_once_names_the_options(tmp_path):
    class Once(Touchy):
        failed = False

        def may(self, what: str) -> None:
            if what == "build" and not Once.failed:
                Once.failed = True
                raise OSError("too slow")

    with pytest.raises(UserError, match=r"^Once stopped before a step \(OSError: too slow\); .* options a=1, correct"):
        CheckedConfig(Once, "Once", Path("once.cfg"), ["a=1"]).finetune(tmp_path / "out")
    assert (tmp_path / "out" / "traceback.txt").is_file()
    Once.failed = False
    with pytest.raises(OSError, match="too slow"):
        CheckedConfig(Once, "Once", Path("once.cfg")).finetune(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_training_that_fails_later_without_options_keeps_its_own_exception(tmp_path, monkeypatch):
    def fail(self: Touchy, what: str) -> None:
        if what == "train":
            raise MemoryError

    monkeypatch.setattr(Touchy, "may", fail)
    with pytest.raises(MemoryError):
        checked().finetune(tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_number_of_processes_that_is_none_is_named():
    with pytest.raises(UserError, match=r"option 'workers=-2' \(ValueError: workers is '-2'; expected a number"):
        checked("workers=-2").images()
