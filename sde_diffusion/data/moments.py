"""Mean and standard deviation of data: sigma_data of EDM (Karras et al. 2022, arXiv:2206.00364), and what whitening needs."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sde_diffusion.data.base import Samples

LIMIT = 10_000  # samples


class Moments(NamedTuple):
    """Mean (*d,) of each coordinate, and the standard deviation of all numbers of all samples about their common mean: sigma_data."""

    mean: Tensor
    std: float


def moments(samples: Samples, *, limit: int = LIMIT) -> Moments:
    """Moments of at most `limit` samples, chosen at random; of a stream, of its first shuffled ones.

    Raises:
        ValueError: for fewer than 2 samples.
    """
    if limit < 2:
        raise ValueError(f"moments need at least 2 samples, got limit={limit}")
    x = samples.up_to(limit).x.double()
    return Moments(x.mean(dim=0).float(), x.std(correction=0).item())
