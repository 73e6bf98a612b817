"""The Fréchet distance between two clouds of samples, and the distance that two real clouds of that size have.

Between Gaussians with the clouds' means m and covariances S (Dowson and Landau 1982; Heusel et al. 2017 for images):

    F = |m_1 - m_2|^2 + Tr(S_1 + S_2 - 2 (S_1^1/2 S_2 S_1^1/2)^1/2).                                                        (1)

The symmetric form stays real when a covariance is singular: corner pixels of digits never change.  Finite clouds of the
same law have F > 0, and the more so the fewer they are; quote F as a ratio to the floor, real against real at equal sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_between(mean_1: Tensor, covariance_1: Tensor, mean_2: Tensor, covariance_2: Tensor) -> float:
    """The Fréchet distance (1) between two Gaussians, means (d,) and covariances (d, d)."""
    root = _root(covariance_1)
    cross = torch.linalg.eigvalsh(root @ covariance_2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean_1 - mean_2).square().sum() + covariance_1.trace() + covariance_2.trace() - 2 * cross
    return distance.clamp(min=0).item()


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance (1) between clouds a (n, *d) and b (m, *d), in float64 on the raw coordinates.

    Raises:
        ValueError: for fewer than two samples, which have no covariance.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a covariance needs at least 2 samples, got {len(a)} and {len(b)}; draw more")
    a, b = (x.detach().flatten(1).double().cpu() for x in (a, b))
    moments = [(x.mean(dim=0), torch.atleast_2d(torch.cov(x.T))) for x in (a, b)]
    return frechet_between(*moments[0], *moments[1])


def real_floor(train: Tensor, held_out: Tensor, n: int, *, repeats: int = 8, seed: int = 0) -> float:
    """The mean Fréchet distance of `repeats` random training subsets of size n to the held-out set.

    Args:
        train: (k, *d).
        held_out: (m, *d).
        n: the number of generated samples that will be compared; more than k counts as k.
        repeats: number of subsets.
        seed: of the subsets.
    """
    generator = torch.Generator().manual_seed(seed)
    subsets = [train[torch.randperm(len(train), generator=generator)[:n]] for _ in range(repeats)]
    return sum(frechet_distance(subset, held_out) for subset in subsets) / repeats
