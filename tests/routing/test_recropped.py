"""A framework's images as the network of a store sees those of files."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("torchvision", reason="images are cut by torchvision")

from data_plugin.images.batch import ImageSource, LoadedImage
from data_plugin.images.crops import centre_crop
from data_plugin.images.input_format import InputFormat
from data_plugin.routing.recropped import RecroppedImages, shown

FRAMEWORKS = InputFormat("BGR", (103.5, 116.3, 123.7), (1.0, 2.0, 3.0))


class Loaded(ImageSource):
    """One image as a framework with a format of its own loads it, padded."""

    def __init__(self, image):
        super().__init__(["image"])
        self.image = image

    def __getitem__(self, index):
        pixels = torch.from_numpy(np.asarray(self.image).copy()).permute(2, 0, 1).float().flip(0)
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (FRAMEWORKS.mean, FRAMEWORKS.std))
        padded = torch.full((3, self.image.height + 7, self.image.width + 9), 1e4)
        padded[:, : self.image.height, : self.image.width] = (pixels - mean) / std
        return LoadedImage(padded, (self.image.height, self.image.width))


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_images_are_cut_and_normalised_as_those_of_the_store(order):
    grey = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    image = Image.fromarray(grey).resize((130, 90), Image.Resampling.BICUBIC)
    own = InputFormat(order, (100.0, 110.0, 120.0), (50.0, 60.0, 70.0))
    preprocessing = {"resize": 37, "centre_crop": 32, "input_format": own.to_json()}
    found = RecroppedImages(Loaded(image), FRAMEWORKS, SimpleNamespace(preprocessing=preprocessing))[0]
    assert found.size == (32, 32)
    expected = centre_crop(32, own)(image)
    assert (found.pixels - expected).abs().max() < 1.5 / 50  # a grey level, of which a file's image has whole ones
    seen = np.asarray(shown(found.pixels, own)).astype(int)
    cut = image.resize((round(130 * 37 / 90), 37), Image.Resampling.BILINEAR)
    left = (cut.width - 32) // 2
    plain = np.asarray(cut.crop((left, 2, left + 32, 34))).astype(int)
    assert np.abs(seen - plain).max() < 12
    assert np.abs(seen - plain).mean() < 3
