"""Distances of laws as averages over pairs of points: 0 exactly when the laws are equal, unbiased at any size.

    energy    2 E|x - y| - E|x - x'| - E|y - y'|                                  (Székely and Rizzo 2013)                  (1)
    mmd       E k(x, x') + E k(y, y') - 2 E k(x, y),  k = mean_s exp(-|x - y|^2 / (2 s^2 h^2)),  s = 1/2, 1, 2  (Gretton et al. 2012)  (2)

with h the median distance of two points of the reference, so that all samples compared with it see one kernel.  Both are U-statistics,
formula (1) of `pairs`; on data of unit scale in the plane, (1) sees shifts and (2) also sees structure of size h/2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sde_diffusion.evaluation.measurement import Estimate
from sde_diffusion.evaluation.neighbours import distances
from sde_diffusion.evaluation.pairs import flat, u_statistic

SCALES = (0.5, 1.0, 2.0)
MEDIAN_POINTS = 1000  # whose pairs give the median: half a million


def energy_distance(a: Tensor, b: Tensor) -> Estimate:
    """The energy distance (1) of clouds a (n, *d) and b (m, *d), in the units of the data, with its standard error."""
    return u_statistic(lambda x, y: -distances(x, y), a, b)


def median_distance(x: Tensor, *, seed: int = 0) -> float:
    """The median distance of two points of x (n, *d), over all pairs of at most a thousand seeded points.

    Raises:
        ValueError: when over half of the pairs coincide.
    """
    generator = torch.Generator().manual_seed(seed)
    points = flat(x)[torch.randperm(len(x), generator=generator)[:MEDIAN_POINTS]]
    median = torch.pdist(points).median().item()
    if median == 0:
        raise ValueError("the median distance of the reference is 0, most of its points coincide; pass a bandwidth")
    return median


def mmd(a: Tensor, b: Tensor, *, bandwidth: float | None = None, scales: tuple[float, ...] = SCALES, seed: int = 0) -> Estimate:
    """The squared maximum mean discrepancy (2) of clouds a (n, *d) and the reference b (m, *d), with its standard error.

    Args:
        bandwidth: h; None: the median distance in b.
        scales: s, multiples of it whose kernels are averaged.
        seed: of the points that the median is taken over.
    """
    h = median_distance(b, seed=seed) if bandwidth is None else bandwidth

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        squares = distances(x, y).square()
        return torch.stack([torch.exp(-squares / (2 * (s * h) ** 2)) for s in scales]).mean(0)

    return u_statistic(kernel, a, b)
