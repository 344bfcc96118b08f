"""Weighted nearest-neighbour classification: what features are worth without training anything on them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from data_plugin.evaluation.accuracy import Accuracy
from data_plugin.utils.errors import UserError

CHUNK = 64
"""Images classified at once; each takes k times classes numbers of memory."""

LOWEST_TEMPERATURE = 0.02
"""Somewhat below it exp(1 / temperature) is no float32 any more."""


def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    k: int = 200,
    temperature: float = 0.07,
) -> Accuracy:
    """Classify by the k most similar training images, each voting with exp(cosine similarity / temperature).

    Source: Wu et al., 2018, arXiv:1805.01978, section 3.4, with its k and temperature.

    Args:
        train_features: (M, C), of any length.
        train_labels: (M,), 0 and above.
        test_features: (N, C).
        test_labels: (N,).
        k: number of neighbours, 1 to M.
        temperature: what similarities are divided by, at least :data:`LOWEST_TEMPERATURE`.

    Raises:
        UserError: if k or the temperature is out of range.
    """
    # lightly brings Lightning along, and that matplotlib.
    from lightly.utils.benchmarking.knn import knn_predict
    from lightly.utils.benchmarking.topk import mean_topk_accuracy

    require_neighbours(k, len(train_features))
    if not temperature >= LOWEST_TEMPERATURE:
        raise UserError(f"the temperature is {temperature}; expected at least {LOWEST_TEMPERATURE}")
    bank = F.normalize(train_features, dim=1).T
    classes = int(train_labels.max()) + 1
    guesses = torch.cat(
        [
            knn_predict(queries, bank, train_labels, classes, k, temperature)[:, :5]
            for queries in F.normalize(test_features, dim=1).split(CHUNK)
        ]
    )
    found = mean_topk_accuracy(guesses, test_labels, k=(1, 5))
    return Accuracy(found[1].item(), found[5].item())


def require_neighbours(k: int, images: int) -> None:
    """Check that there can be k neighbours among so many training images.

    Raises:
        UserError: if there cannot.
    """
    if not 1 <= k <= images:
        raise UserError(f"k is {k}, but there are {images} training images; expected a k from 1 to {images}")
