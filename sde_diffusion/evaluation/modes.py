"""How samples are spread over modes that are known."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sde_diffusion.evaluation.pairs import flat


class ModeCounts(NamedTuple):
    """Samples at each mode, how likely such unevenness is by chance, and how large it is.

    Args:
        counts: of the samples within the radius of each centre.
        outside: number of samples near no centre.
        p_value: of the chi-square test of `counts` against the weights.
        variation: total variation distance 1/2 sum |counts/n - weight| + outside/(2 n): the share of the mass that lies wrongly.
    """

    counts: tuple[int, ...]
    outside: int
    p_value: float
    variation: float


def mode_counts(samples: Tensor, centers: Tensor, radius: float, *, weights: Tensor | None = None) -> ModeCounts:
    """Counts samples (n, *d) at the modes centers (k, *d), each at the nearest centre if that is within the radius.

    Args:
        radius: in the units of the data.
        weights: (k,) positive, of the modes, relative; None: equal.

    Raises:
        ValueError: for a radius or weights that are not positive.
    """
    from scipy.stats import chisquare

    shares = torch.ones(len(centers), dtype=torch.float64) if weights is None else weights.double().cpu()
    if radius <= 0 or shares.min() <= 0:
        raise ValueError(f"radius and weights must be positive, got radius {radius:g}, least weight {shares.min().item():g}")
    shares = shares / shares.sum()
    nearest, mode = torch.cdist(flat(samples), flat(centers)).min(dim=1)
    counts = torch.bincount(mode[nearest <= radius], minlength=len(centers))
    inside = int(counts.sum())
    p_value = float(chisquare(counts.numpy(), (shares * inside).numpy()).pvalue) if inside else 0.0
    n = len(samples)
    variation = ((counts / n - shares).abs().sum().item() + (n - inside) / n) / 2
    return ModeCounts(tuple(counts.tolist()), n - inside, p_value, variation)
