from pathlib import Path

import pytest
from samples import random_supernet_file


@pytest.fixture(scope="module")
def supernet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_supernet_file(tmp_path_factory.mktemp("ranking") / "supernet.safetensors")
