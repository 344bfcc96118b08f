from types import SimpleNamespace

import pytest
from samples import RandomImages

from data_plugin.images.batch import ImageBatches
from data_plugin.images.input_format import InputFormat


@pytest.fixture
def images() -> ImageBatches:
    """Three random images, one a batch."""
    return ImageBatches(RandomImages([(64, 64)] * 3), [[0], [1], [2]])


@pytest.fixture
def adapter(monkeypatch, images) -> SimpleNamespace:
    """A framework of three random images, so that search is tested apart from any framework."""
    fake = SimpleNamespace(
        load_config=lambda config, options, data_root: {"options": list(options)},
        input_format=lambda config: InputFormat.imagenet(),
        taps=lambda config: ("C5",),
        strides_and_dilations=lambda config: {"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)},
        image_batches=lambda config, count, batch_size, seed: images,
        write_config=lambda config, arch, weights, path: path.write_text(f"{arch} {weights}"),
    )
    monkeypatch.setattr("data_plugin.search.run.load_adapter", lambda *_: ("mmdet", fake))
    monkeypatch.setattr("data_plugin.search.run.is_installed", lambda name: name == "mmdet")
    return fake
