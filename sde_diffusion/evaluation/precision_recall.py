"""Whether samples are realistic and whether they are diverse, by balls around points in feature space.

With NN_k(y) the distance from y to its k-th nearest other point of its own cloud, generated x_1..x_n and real y_1..y_m,

    precision = 1/n sum_i [x_i is in some ball around a y_j of radius NN_k(y_j)]           (Kynkäänniemi et al. 2019)       (1)
    recall    = 1/m sum_j [y_j is in some ball around an x_i of radius NN_k(x_i)]                                           (2)
    density   = 1/(k n) sum_i (number of balls around the y_j that hold x_i)               (Naeem et al. 2020)              (3)
    coverage  = 1/m sum_j [the ball around y_j holds some x_i]                                                              (4)

Balls are closed.  Large balls around outliers make (1) generous, and in many dimensions (2) is low even for real data: read all four
against their floors.  Expected for one continuous law: density 1, coverage 1 - C(m - 1, k)/C(n + m - 1, k).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sde_diffusion.evaluation.neighbours import distances, neighbours
from sde_diffusion.evaluation.pairs import CHUNK, flat


class PrecisionRecall(NamedTuple):
    """The four numbers (1) to (4); all but the density are in [0, 1]."""

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(samples: Tensor, real: Tensor, *, k: int = 3, density_k: int = 5) -> PrecisionRecall:
    """Precision, recall, density and coverage of samples (n, *d) against real (m, *d), exactly and in float64.

    Args:
        k: neighbours of precision and recall; 3 is the first paper's.
        density_k: neighbours of density and coverage; 5 is the second's.

    Raises:
        ValueError: when a cloud has no more points than neighbours.
    """
    x, y = flat(samples), flat(real)
    most = max(k, density_k)
    radii_y, radii_x = neighbours(y, most)[0], neighbours(x, k)[0][:, k - 1]
    realistic = torch.zeros(len(x), dtype=torch.bool)
    recalled, covered = torch.zeros(len(y), dtype=torch.bool), torch.zeros(len(y), dtype=torch.bool)
    inside = 0
    for i in range(0, len(x), CHUNK):
        for j in range(0, len(y), CHUNK):
            rows, columns = slice(i, i + CHUNK), slice(j, j + CHUNK)
            pairs = distances(x[rows], y[columns])
            realistic[rows] |= (pairs <= radii_y[columns, k - 1]).any(1)
            recalled[columns] |= (pairs <= radii_x[rows, None]).any(0)
            within = pairs <= radii_y[columns, density_k - 1]
            inside += int(within.sum())
            covered[columns] |= within.any(0)
    precision, recall, coverage = (hits.double().mean().item() for hits in (realistic, recalled, covered))
    return PrecisionRecall(precision, recall, inside / (density_k * len(x)), coverage)
