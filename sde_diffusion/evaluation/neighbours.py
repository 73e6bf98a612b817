"""Exact nearest neighbours in chunks: no matrix of all pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from sde_diffusion.evaluation.pairs import CHUNK

DIRECT, BY_PRODUCT = "donot_use_mm_for_euclid_dist", "use_mm_for_euclid_dist"
DIRECT_UP_TO = 16  # dimensions: at 64 a product of matrices is 5 times faster; it leaves errors of 1e-8 of |x|, direct sums none


def distances(x: Tensor, y: Tensor) -> Tensor:
    """The Euclidean distances of x (n, d) and y (m, d), (n, m)."""
    return torch.cdist(x, y, compute_mode=DIRECT if x.shape[1] <= DIRECT_UP_TO else BY_PRODUCT)


def neighbours(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Distances and indices, (n, k) each and nearest first, of the k nearest other points of each point of x (n, d).

    Raises:
        ValueError: when there are not more than k points.
    """
    if len(x) <= k:
        raise ValueError(f"{k} neighbours need more than {k} points, got {len(x)}; draw more")
    found = [_nearest(x, i, k) for i in range(0, len(x), CHUNK)]
    return torch.cat([a for a, _ in found]), torch.cat([b for _, b in found])


def _nearest(x: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    """Of the points from `start` on, one chunk of them."""
    rows = x[start : start + CHUNK]
    best, index = x.new_empty(len(rows), 0), torch.empty(len(rows), 0, dtype=torch.long)
    for j in range(0, len(x), CHUNK):
        block = distances(rows, x[j : j + CHUNK])
        if j == start:
            block.fill_diagonal_(torch.inf)
        near, column = block.topk(min(k, block.shape[1]), dim=1, largest=False)
        best, order = torch.cat((best, near), 1).sort(dim=1)
        index = torch.cat((index, j + column), 1).gather(1, order)[:, :k]
        best = best[:, :k]
    return best, index
