import os
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from samples import distilled_supernet

from data_plugin.images.drawn_cityscapes import draw_cityscapes
from data_plugin.images.drawn_voc import draw_voc
from data_plugin.supernet import named_supernet
from data_plugin.supernet.checkpoint import save_supernet
from data_plugin.supernet.pack import pack

CHECKOUT = Path(__file__).resolve().parent.parent
REAL_DATA = CHECKOUT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The source checkout that the tests belong to."""
    return CHECKOUT


@pytest.fixture(scope="session")
def drawn_voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root in VOC layout: 8 drawn images in trainval, 4 in test, 4 in no split."""
    root = tmp_path_factory.mktemp("drawn")
    draw_voc(root, train=8, test=4, size=(160, 120), seed=0, unlabelled=4)
    return root


@pytest.fixture(scope="session")
def drawn_cityscapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root in Cityscapes' layout: 4 drawn images in train, 2 in val, of five classes and unlabelled pixels."""
    root = tmp_path_factory.mktemp("cityscapes")
    draw_cityscapes(root, {"train": 4, "val": 2})
    return root


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a tiny supernet, with a teacher that saw labels, in the place of the one that is shipped."""
    folder = tmp_path / "package"
    monkeypatch.setattr(named_supernet, "FOLDER", folder)
    save_supernet(tmp_path / "trained.safetensors", distilled_supernet())
    return pack(tmp_path / "trained.safetensors", folder).path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of tar files with real photographs; tests that need it skip where it is missing."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"needs the real photographs of {REAL_DATA.parent.name}/{REAL_DATA.name} beside the checkout")
    return REAL_DATA


@pytest.fixture
def cuda() -> torch.device:
    """A GPU or, so that tests of one can be rehearsed, the device that ``CUDA_TESTS_ON`` names."""
    device = torch.device(os.environ.get("CUDA_TESTS_ON", "cuda"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return device


@pytest.fixture(autouse=True)
def _quick_frameworks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes seconds and changes nothing: laying a config out, collecting garbage, forking."""
    if "mmengine.config" in sys.modules:
        monkeypatch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **_: (text, False))
    if "mmengine.dataset" in sys.modules:
        monkeypatch.setattr("mmengine.dataset.base_dataset.gc", SimpleNamespace(collect=lambda: None))
    if "mmdet.evaluation" in sys.modules:
        monkeypatch.setattr("mmdet.evaluation.functional.mean_ap.Pool", ThreadPool)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)
