from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from samples import unchanged_catalogs


@pytest.fixture(autouse=True)
def _catalogs_as_they_were() -> Iterator[None]:
    with unchanged_catalogs():
        yield


@pytest.fixture
def detector_inputs() -> Callable[[], list[dict]]:
    """Makes two labelled images as detectron2's loader gives them, the same every time."""
    from detectron2.structures import Boxes, Instances, PolygonMasks

    def make() -> list[dict]:
        generator = torch.Generator().manual_seed(0)
        inputs = []
        for index in range(2):
            height, width = 96 + 16 * index, 128
            target = Instances((height, width))
            target.gt_boxes = Boxes(torch.tensor([[10.0, 12.0, 70.0, 80.0], [40.0, 30.0, 120.0, 90.0]]))
            target.gt_classes = torch.tensor([3, 7])
            corners = ([10, 12, 70, 12, 40, 80], [40, 30, 120, 30, 80, 90])
            target.gt_masks = PolygonMasks([[np.array(polygon, dtype=float)] for polygon in corners])
            image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
            stuff = torch.randint(0, 5, (height, width), generator=generator)
            inputs.append({"image": image, "height": height, "width": width, "instances": target, "sem_seg": stuff})
        return inputs

    return make
