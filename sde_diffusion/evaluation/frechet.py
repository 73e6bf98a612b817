"""The Fréchet distance between two clouds of samples, and the distance that two real clouds of that size have.

Between Gaussians with the clouds' means m and covariances S (Dowson and Landau 1982; Heusel et al. 2017 for images):

    F = |m_1 - m_2|^2 + Tr(S_1 + S_2 - 2 (S_1^1/2 S_2 S_1^1/2)^1/2).                                                        (1)

The symmetric form stays real when a covariance is singular: corner pixels of digits never change.  Finite clouds of the
same law have F > 0, and the more so the fewer they are; quote F as a ratio to the floor, real against real at equal sizes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sde_diffusion.evaluation.features import FeatureExtractor, digest, write_tensors
from sde_diffusion.evaluation.measurement import Estimate


@dataclass(frozen=True)
class Statistics:
    """What (1) needs of a cloud: mean (d,), covariance (d, d), both float64, and the number n of samples they are of.

    Clouds too large for the memory are added up part by part, also on several processes: `a.merge(b)` is the statistics of the union,

        n = n_a + n_b,    m = m_a + n_b/n D,    (n - 1) S = (n_a - 1) S_a + (n_b - 1) S_b + n_a n_b/n D D^T,    D = m_b - m_a  (2)

    (Chan, Golub and LeVeque 1983), which loses no digits when means are large, as sums of squares do.
    """

    mean: Tensor
    covariance: Tensor
    n: int

    @classmethod
    def of(cls, features: Tensor) -> Statistics:
        """Of a cloud (n, *d), n >= 1; the covariance of one sample is 0."""
        x = features.detach().flatten(1).double().cpu()
        centred = x - x.mean(0)
        return cls(x.mean(0), centred.T @ centred / max(1, len(x) - 1), len(x))

    def merge(self, other: Statistics) -> Statistics:
        """Of both clouds together, by (2)."""
        n = self.n + other.n
        D = other.mean - self.mean
        scatter = (self.n - 1) * self.covariance + (other.n - 1) * other.covariance + self.n * other.n / n * torch.outer(D, D)
        return Statistics(self.mean + other.n / n * D, scatter / (n - 1), n)

    @classmethod
    def of_parts(cls, parts: Iterable[Tensor]) -> Statistics:
        """Of a cloud that comes in parts (n_i, *d), which are forgotten one by one.

        Raises:
            ValueError: when there are no parts.
        """
        total: Statistics | None = None
        for part in parts:
            total = cls.of(part) if total is None else total.merge(cls.of(part))
        if total is None:
            raise ValueError("no samples: the parts are empty")
        return total

    def frechet(self, other: Statistics) -> float:
        """The Fréchet distance (1) to other statistics."""
        return frechet_between(self.mean, self.covariance, other.mean, other.covariance)


def reference_statistics(x: Tensor, features: FeatureExtractor, *, cache: Path | None = None, batch: int = 1024) -> Statistics:
    """The statistics of a reference set x (n, *d) in an extractor's features, from the folder `cache` if they were written there.

    The file is named after the content of x and the extractor's key.
    """
    if cache is None:
        return Statistics.of_parts(features(part) for part in x.split(batch))
    from safetensors.torch import load_file

    path = Path(cache) / f"statistics-{digest({'x': x})}-{hashlib.sha256(features.key.encode()).hexdigest()[:16]}.safetensors"
    if not path.exists():
        made = reference_statistics(x, features, batch=batch)
        write_tensors(path, {"mean": made.mean, "covariance": made.covariance, "n": torch.tensor(made.n)})
    stored = load_file(path)
    return Statistics(stored["mean"], stored["covariance"], int(stored["n"]))


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
    return Statistics.of(a).frechet(Statistics.of(b))


def frechet_estimate(a: Tensor, b: Tensor) -> Estimate:
    """The Fréchet distance of two clouds and its standard error to first order, at the price of two distances.

    Moving weight to one sample x of the first cloud changes (1) at the rate

        I(x) = 2 (m_1 - m_2).u + |u|^2 - w' (S_1^1/2 S_2 S_1^1/2)^1/2 w - its mean,    u = x - m_1,  w = S_1^-1/2 u,          (3)

    and likewise for the second; error^2 = var I_1/n + var I_2/m (the infinitesimal jackknife).
    """
    value = frechet_distance(a, b)
    variance = 0.0
    for x, y in ((a, b), (b, a)):
        own, other = Statistics.of(x), Statistics.of(y)
        values, vectors = torch.linalg.eigh(own.covariance)
        kept = values > RANK_TOLERANCE * values.max()
        scales, basis = values[kept].sqrt(), vectors[:, kept]
        u = x.detach().flatten(1).double().cpu() - own.mean
        w = u @ basis / scales
        middle = _root(scales[:, None] * (basis.T @ other.covariance @ basis) * scales)
        influence = 2 * u @ (own.mean - other.mean) + u.square().sum(1) - (w @ middle * w).sum(1)
        variance += influence.var().item() / len(x)
    return Estimate(value, variance**0.5)


RANK_TOLERANCE = 1e-10  # relative size of a variance that counts as none; rounding leaves 1e-16


def frechet_infinity(a: Tensor, b: Tensor, *, sizes: int = 15, least: float = 0.5, seed: int = 0) -> float:
    """The Fréchet distance extrapolated to infinitely many samples (Chong and Forsyth 2020).

    The bias is C/n to leading order: a straight line through F of random subsets of a, against 1/n, is read off at 1/n = 0.  The bias
    from the size of b stays.

    Args:
        a: (n, *d), the generated samples.
        b: (m, *d).
        sizes: number of subsets, their sizes evenly spaced.
        least: the smallest, as a share of n; it must leave a few samples per feature.
        seed: of the subsets.

    Raises:
        ValueError: for a share outside (0, 1), or when the smallest subset has fewer than two samples.
    """
    if not 0 < least < 1:
        raise ValueError(f"the smallest subset must be a share in (0, 1) of the samples, got {least:g}")
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.linspace(least * len(a), len(a), sizes, dtype=torch.float64).round().long()
    reference = Statistics.of(b)
    if numbers[0] < 2:
        raise ValueError(f"a covariance needs at least 2 samples, the smallest subset of {len(a)} has {int(numbers[0])}; draw more")
    distances = [Statistics.of(a[torch.randperm(len(a), generator=generator)[:k]]).frechet(reference) for k in numbers.tolist()]
    line = torch.stack((torch.ones(sizes, dtype=torch.float64), 1 / numbers), dim=1)
    return torch.linalg.lstsq(line, torch.tensor(distances, dtype=torch.float64)[:, None]).solution[0].item()


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
