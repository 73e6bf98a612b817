"""The classifier two-sample test (Lopez-Paz and Oquab 2017): can a classifier tell samples from data that it was not trained on?

The accuracy over cross-validation folds is 1/2 for equal laws.  Its p-value comes from permutations of the labels, the folds and all
training repeated, so it is exact at any size: p = (1 + number of permutations as accurate)/(1 + number of permutations).       (1)
The default classifier is k nearest neighbours, k the odd number nearest to sqrt(points), whose neighbours do not depend on the labels:
a permutation costs one table look-up.  Logistic regression or a network finds other differences; pass any scikit-learn classifier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sde_diffusion.evaluation.neighbours import distances
from sde_diffusion.evaluation.pairs import CHUNK, flat


class TwoSampleTest(NamedTuple):
    """Accuracy of the classifier, and the p-value (1) of equal laws."""

    accuracy: float
    p_value: float


def c2st(a: Tensor, b: Tensor, *, classifier: Any = None, folds: int | None = 5, permutations: int = 200, seed: int = 0) -> TwoSampleTest:
    """Tests whether clouds a (n, *d) and b (m, *d) have one law; the larger is thinned to the size of the smaller.

    Args:
        classifier: of scikit-learn, with `fit` and `predict`, retrained for each fold and permutation; None: nearest neighbours.
        folds: of the cross-validation; None: each point is a fold, which leaves nothing to chance.
        permutations: of the p-value, whose least value is 1/(1 + permutations).
        seed: of thinning, folds and permutations.

    Raises:
        ValueError: for clouds with fewer points than folds.
    """
    generator = torch.Generator().manual_seed(seed)
    n = min(len(a), len(b))
    if n < (folds or 2):
        raise ValueError(f"cross-validation needs at least {folds or 2} points in each cloud, got {n}; draw more")
    x = torch.cat([flat(z)[torch.randperm(len(z), generator=generator)[:n]] for z in (a, b)])
    labels = (torch.arange(2 * n) < n).long()
    parts = torch.randperm(2 * n, generator=generator) % (folds or 2 * n)
    accuracy = _nearest(x, parts) if classifier is None else _trained(x, parts, classifier)
    observed = accuracy(labels)
    as_good = sum(accuracy(labels[torch.randperm(2 * n, generator=generator)]) >= observed for _ in range(permutations))
    return TwoSampleTest(observed, (1 + as_good) / (1 + permutations))


def _nearest(x: Tensor, parts: Tensor) -> Callable[[Tensor], float]:
    """Labels to the accuracy of the nearest-neighbour vote among the points of the other folds."""
    k = 2 * round((len(x) ** 0.5 - 1) / 2) + 1
    voters = []
    for i in range(0, len(x), CHUNK):
        near = distances(x[i : i + CHUNK], x)
        near[parts[i : i + CHUNK, None] == parts] = torch.inf
        voters.append(near.topk(k, dim=1, largest=False).indices)
    indices = torch.cat(voters)
    return lambda labels: ((2 * labels[indices].sum(1) > k).long() == labels).double().mean().item()


def _trained(x: Tensor, parts: Tensor, classifier: Any) -> Callable[[Tensor], float]:
    from sklearn.base import clone

    points = x.numpy()

    def accuracy(labels: Tensor) -> float:
        right = 0
        for part in parts.unique():
            own = (parts == part).numpy()
            fitted = clone(classifier).fit(points[~own], labels.numpy()[~own])
            right += int((fitted.predict(points[own]) == labels.numpy()[own]).sum())
        return right / len(labels)

    return accuracy
