"""The kernel distance of two clouds of features (Binkowski et al. 2018), unbiased at any size.

The squared maximum mean discrepancy, formula (1) of `pairs`, of the kernel

    k(x, y) = (x.y / d + 1)^3,    d the number of features.                                                                 (1)

Published numbers average it over random subsets; the average over all pairs has the same expectation, less variance and no seed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sde_diffusion.evaluation.measurement import Estimate
from sde_diffusion.evaluation.pairs import flat, u_statistic


def polynomial_kernel(x: Tensor, y: Tensor) -> Tensor:
    """The kernel (1) of all pairs of x (n, d) and y (m, d), (n, m)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kid(a: Tensor, b: Tensor) -> Estimate:
    """The kernel distance between clouds a (n, *d) and b (m, *d) over all pairs, in float64, with its standard error."""
    return u_statistic(polynomial_kernel, a, b)


def kid_subsets(a: Tensor, b: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> Estimate:
    """The kernel distance as published: the mean over random subsets, drawn without replacement; the error is the spread over subsets.

    That spread is what papers print; it is not the standard error of the mean, because subsets overlap.

    Args:
        a: (n, *d).
        b: (m, *d).
        subsets: how many.
        size: of each, at most n and m.
        seed: of the subsets.

    Raises:
        ValueError: when a cloud is smaller than a subset.
    """
    x, y = flat(a), flat(b)
    if size > min(len(x), len(y)):
        raise ValueError(
            f"subsets of {size} cannot be drawn from {len(x)} and {len(y)} points; lower size, or use kid, which uses all pairs"
        )
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        i, j = (torch.randperm(len(z), generator=generator)[:size] for z in (x, y))
        values.append(u_statistic(polynomial_kernel, x[i], y[j]).value)
    spread = torch.tensor(values, dtype=torch.float64)
    return Estimate(spread.mean().item(), spread.std(correction=0).item())
