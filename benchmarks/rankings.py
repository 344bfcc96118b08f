"""What benchmarks that compare rankings of networks share: the networks, their distances, a ranking by labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from image_files import ImageFiles
from torch import Tensor
from torch.nn import functional as F
from torchvision.datasets import ImageFolder

from data_plugin import Arch, SearchSpace
from data_plugin.backbones import DynamicResNet
from data_plugin.features.pooled import CalibratedNetworks, labelled_features
from data_plugin.images.batch import ImageBatches
from data_plugin.ranking.statistics import spearman
from data_plugin.search.result import SearchResult
from data_plugin.space import cost


def one_budget(space: SearchSpace, count: int) -> list[Arch]:
    """Networks between the 45th and the 60th percentile of the space's cost."""
    flops = cost.flops(space.table)
    low, high = np.quantile(flops, [0.45, 0.6])
    return space.sample(count, 0, lambda table: (cost.flops(table) >= low) & (cost.flops(table) <= high))


def distances(result: SearchResult, archs: Sequence[Arch]) -> np.ndarray:
    """Divergences (networks, images) in the order of ``archs``."""
    return result.per_image([result.index[arch] for arch in archs])


def halves(values: np.ndarray) -> float:
    """How far the ranking by one half of the images agrees with that by the other, from (networks, images)."""
    return spearman(values[:, ::2].mean(1), values[:, 1::2].mean(1))


def drawn(folder: ImageFolder, count: int) -> list[int]:
    """Indices of random images, the same every time."""
    return np.random.default_rng(0).permutation(len(folder))[:count].tolist()


def files(folder: ImageFolder, indices: Sequence[int]) -> list[str]:
    return [folder.samples[index][0] for index in indices]


def by_labels(
    query: DynamicResNet, archs: Sequence[Arch], statistics: ImageBatches, folders: Sequence[ImageFolder], count: int
) -> np.ndarray:
    """How often a validation image's own class mean is nearer than another class's, (networks, images).

    Compared is pooled C5 of networks in the state in which a winner is handed over.

    Args:
        query: the branch of the networks.
        archs: the networks.
        statistics: the images that give their batch-norm statistics.
        folders: labelled images for the means, and for the comparison, taken at 64 pixels.
        count: images of each.
    """
    networks = CalibratedNetworks(query, archs, (batch.images for batch in statistics))
    (features, labels), (queries, own) = (labelled_features(networks, _labelled(f, count)) for f in folders)
    return np.stack([_own_class_nearer(features[arch], labels, queries[arch], own) for arch in archs])


def _labelled(folder: ImageFolder, count: int, batch_size: int = 250) -> Iterable[tuple[Tensor, Tensor]]:
    chosen = drawn(folder, count)
    images: Iterator[Tensor] = (b.images for b in ImageFiles(files(folder, chosen), 64).batches(batch_size))
    return zip(images, torch.tensor([folder.targets[i] for i in chosen]).split(batch_size), strict=True)


def _own_class_nearer(features: Tensor, labels: Tensor, queries: Tensor, own: Tensor) -> np.ndarray:
    """Per query, the part of the other classes whose mean is further than its own class's."""
    centre = features.mean(0)
    features, queries = F.normalize(features - centre), F.normalize(queries - centre)
    members = F.one_hot(labels).T.float()
    similarity = queries @ F.normalize(members @ features).T
    return ((similarity < similarity.gather(1, own[:, None])).sum(1) / (len(members) - 1)).numpy()
