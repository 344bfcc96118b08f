from pathlib import Path

import pytest
import torch

from data_plugin.drawn_voc import draw_voc

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
def real_data() -> Path:
    """The folder of tar files with real photographs; tests that need it skip where it is missing."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"needs the real photographs of {REAL_DATA.parent.name}/{REAL_DATA.name} beside the checkout")
    return REAL_DATA


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)
