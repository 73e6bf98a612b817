"""Wasserstein distances of point clouds, W_2^2 = min over couplings of E|x - y|^2, in the units of the data.

    on a line    W_2^2 = int_0^1 (F^-1(u) - G^-1(u))^2 du, exact for any two sizes by sorting                               (1)
    sliced       SW_2^2 = mean of (1) over projections on random directions (Bonneel et al. 2015)                           (2)
    exact        the linear program, by POT (Flamary et al. 2021)                                                           (3)

Directions come in orthonormal bases: each is uniform on the sphere, and a shift m has SW_2^2 = |m|^2/d without error when whole bases
are drawn.  Finite clouds of one law are at a positive distance, for (3) of order n^(-1/d): compare with the floor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sde_diffusion.evaluation.pairs import flat

LIMIT = 5000  # points of (3): 200 MB of costs


def quantile_distance(x: Tensor, y: Tensor) -> Tensor:
    """The square of (1) for each column of x (n, k) and y (m, k), (k,), each point having weight 1/n or 1/m."""
    n, m = len(x), len(y)
    # both quantile functions are constant between the levels i/n and j/m; whole numbers i m, j n in units of 1/(n m) make ties exact
    levels = torch.cat((torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n)).unique()
    widths = torch.diff(levels, prepend=levels.new_zeros(1)).double() / (n * m)
    a, b = x.sort(dim=0).values[(levels - 1) // m], y.sort(dim=0).values[(levels - 1) // n]
    return widths @ (a - b).square()


def sliced_wasserstein(a: Tensor, b: Tensor, *, projections: int = 128, seed: int = 0) -> float:
    """The sliced Wasserstein distance, the root of (2), of clouds a (n, *d) and b (m, *d); on a line it is (1).

    Args:
        projections: number of directions; a multiple of d gives whole bases.
        seed: of the directions.
    """
    x, y = flat(a), flat(b)
    directions = _directions(x.shape[1], projections if x.shape[1] > 1 else 1, seed)
    return quantile_distance(x @ directions, y @ directions).mean().sqrt().item()


def _directions(d: int, number: int, seed: int) -> Tensor:
    """Unit vectors (d, number), the columns of random orthonormal bases."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(-(-number // d), d, min(d, number), generator=generator, dtype=torch.float64)
    bases = torch.linalg.qr(normal)[0]
    return bases.transpose(0, 1).flatten(1)[:, :number]


def pot() -> Any:
    """The module of POT.

    Raises:
        ModuleNotFoundError: where it is not installed.
    """
    try:
        import ot
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("exact transport needs POT: pip install 'sde_diffusion[evaluation]'", name="ot") from error
    return ot


def wasserstein(a: Tensor, b: Tensor, *, limit: int = LIMIT) -> float:
    """The exact Wasserstein distance, the root of (3), of clouds a (n, *d) and b (m, *d) with equal weights.

    Args:
        limit: the most points in a cloud; time grows as their cube, memory as their square.

    Raises:
        ValueError: for larger clouds.
        ModuleNotFoundError: without POT.
    """
    if max(len(a), len(b)) > limit:
        raise ValueError(f"exact transport of {len(a)} to {len(b)} points exceeds the limit of {limit}; thin the clouds or raise limit")
    ot = pot()
    x, y = flat(a), flat(b)
    if len(x) == len(y) and x.shape[1] == 1:
        return quantile_distance(x, y).item() ** 0.5
    costs = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square().numpy()
    cost = ot.emd2([], [], costs, numItermax=10_000_000)  # empty weights are equal weights
    return max(0.0, float(cost)) ** 0.5
