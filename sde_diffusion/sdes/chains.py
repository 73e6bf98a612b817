"""Discrete models as exact continuous processes.

A chain x_i = a_i x_{i-1} + sqrt(q_i) z, i = 1..n, has marginals (alpha_i, sigma_i) at the nodes t_i = i/n. Between two nodes f and g are
constant, with h = 1/n and u = t - t_{i-1},

    f = log(alpha_i/alpha_{i-1})/h,    g^2 = Q_i 2f/(exp(2fh) - 1),    Q_i = sigma_i^2 - (alpha_i/alpha_{i-1})^2 sigma_{i-1}^2    (1)
    alpha = alpha_{i-1} exp(fu),       sigma^2 = exp(2fu) sigma_{i-1}^2 + g^2 (exp(2fu) - 1)/(2f)                              (2)

so that the process has exactly the chain's transitions at the nodes. DDPM's chain (Ho et al. 2020, arXiv 2006.11239) is the VP SDE with
piecewise-constant beta; NCSN's ladder (Song & Ermon 2019, 1907.05600) is the VE SDE with piecewise-constant g.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sde_diffusion.sdes.base import AffineSDE
from sde_diffusion.shapes import Time, as_time

_ULPS = 4  # by which i/n, or a float32 linspace, may come out larger than the node i/n that it means


def _expm1_ratio(z: Tensor) -> Tensor:
    """(exp(z) - 1)/z, 1 at z = 0."""
    return torch.where(z == 0, 1.0, torch.expm1(z) / torch.where(z == 0, 1.0, z))


class Chain(AffineSDE):
    """A chain with nodes t = i/length, continued between them by (2). Its t_min is 0: a sampler ends on the data themselves."""

    t_min: float = 0.0

    @abc.abstractmethod
    def nodes(self) -> tuple[Sequence[float], Sequence[float]]:
        """(alphas, sigmas) at t = 0, 1/n, ..., 1."""

    @abc.abstractmethod
    def _at(self, indices: Sequence[int]) -> Chain:
        """The chain with the start and the nodes 1 <= i <= length only, increasing."""

    def respaced(self, steps: int | Sequence[int]) -> Chain:
        """The chain that jumps from one of some nodes to the next, with the same marginals there (Nichol & Dhariwal 2021, section 4).

            beta'_k = 1 - alpha_bar(tau_k)/alpha_bar(tau_{k-1})    for DDPM's chain

        A denoiser of the long chain is one of the short chain by `denoiser.under(chain.respaced(steps))`: equal noise, equal label.
        To sample, no such chain is needed: `sample(denoiser, Ancestral(), grid=...)` with some of the long chain's nodes is the same.

        Args:
            steps: how many nodes, at least 2, nearly equally spaced from the first to the last; or the numbers of the nodes, increasing
                from at least 1 to `length`.

        Raises:
            ValueError: for other numbers, or more steps than the chain has.
        """
        n = self.length
        if isinstance(steps, int):
            if not 2 <= steps <= n:
                raise ValueError(f"a chain of {n} steps can be respaced to 2..{n}, got {steps}")
            steps = [round(1 + k * (n - 1) / (steps - 1)) for k in range(steps)]
        nodes = [int(i) for i in steps]
        if len(nodes) < 2 or nodes[0] < 1 or nodes[-1] != n or any(i >= j for i, j in itertools.pairwise(nodes)):
            raise ValueError(
                f"the nodes must be at least two numbers that increase from 1 or more to {n}, got {nodes[:4]}{'...' if nodes[4:] else ''}; "
                "the last one is where the noise is"
            )
        return self if len(nodes) == n else self._at(nodes)

    @property
    def length(self) -> int:  # type: ignore[override]
        return len(self._tables[0]) - 1

    @functools.cached_property
    def _tables(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """alpha, sigma^2 at the nodes (n + 1,), f, g^2 on the segments (n,)."""
        alpha, sigma = (torch.tensor(a, dtype=torch.float64) for a in self.nodes())
        h, ratio = 1 / (len(alpha) - 1), alpha[1:] / alpha[:-1]
        f = torch.log(ratio) / h
        q = sigma[1:] ** 2 - ratio**2 * sigma[:-1] ** 2
        return alpha, sigma**2, f, q / (h * _expm1_ratio(2 * f * h))

    def _segment(self, t: Time) -> tuple[Tensor, ...]:
        """(u, alpha_{i-1}, sigma_{i-1}^2, f, g^2) of (1) at times t."""
        t = as_time(t)
        n = self.length
        index = t.detach() * (n * (1 - _ULPS * torch.finfo(t.dtype).eps))
        i = (torch.ceil(index).long() - 1).clamp(0, n - 1)  # t = i/n belongs to the segment that ends there
        alpha, variance, f, g2 = (a.to(t.device) for a in self._tables)
        u = t - i.to(t) / n  # i / n would be float32, torch's default
        return u, *(a[i].to(t) for a in (alpha, variance, f, g2))

    def alpha(self, t: Time) -> Tensor:
        u, alpha, _, f, _ = self._segment(t)
        return alpha * torch.exp(f * u)

    def sigma(self, t: Time) -> Tensor:
        u, _, variance, f, g2 = self._segment(t)
        return torch.sqrt(torch.exp(2 * f * u) * variance + g2 * u * _expm1_ratio(2 * f * u))

    def f(self, t: Time) -> Tensor:
        return self._segment(t)[3]

    def g(self, t: Time) -> Tensor:
        return torch.sqrt(self._segment(t)[4])

    def t_of_log_snr(self, lam: Time) -> Tensor:
        # r = sigma^2/alpha^2 grows on a segment as r_{i-1} + (g/alpha_{i-1})^2 (1 - exp(-2fu))/(2f); solved for u
        r = torch.exp(-2 * as_time(lam))
        alpha, variance, f, g2 = (a.to(r) for a in self._tables)
        nodes = variance / alpha**2
        i = (torch.searchsorted(nodes, r.detach().contiguous()) - 1).clamp(0, self.length - 1)
        y = (r - nodes[i]) * alpha[i] ** 2 / g2[i]
        z = -2 * f[i] * y
        u = y * torch.where(z == 0, 1.0, torch.log1p(z) / torch.where(z == 0, 1.0, z))
        return i.to(r) / self.length + u


@dataclasses.dataclass(frozen=True, repr=False)
class DDPMChain(Chain):
    """DDPM's chain x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) z (Ho et al. 2020).

    Args:
        betas: beta_1, ..., beta_n, each in (0, 1); `linear_betas(1000)` are the paper's.
    """

    betas: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", _floats(self.betas, "betas"))
        for i, beta in enumerate(self.betas, start=1):
            if not 0 < beta < 1:
                raise ValueError(f"betas must lie in (0, 1), got beta_{i}={beta}")

    def __repr__(self) -> str:
        n, first, last = len(self.betas), self.betas[0], self.betas[-1]
        named = {f"linear_betas({n}, {first}, {last})": linear_betas(n, first, last), f"cosine_betas({n})": cosine_betas(n)}
        return f"DDPMChain({_named(self.betas, named)})"

    @property
    def prior_std(self) -> float:
        return 1.0

    def nodes(self) -> tuple[Sequence[float], Sequence[float]]:
        log_alpha_bar = np.cumsum(np.log1p(-np.asarray(self.betas)))  # log1p, expm1: 1 - alpha_bar keeps its digits at i = 1
        alphas, sigmas = np.exp(0.5 * log_alpha_bar), np.sqrt(-np.expm1(log_alpha_bar))
        return [1.0, *alphas.tolist()], [0.0, *sigmas.tolist()]

    def _at(self, indices: Sequence[int]) -> DDPMChain:
        log_alpha_bar = np.concatenate([[0.0], np.cumsum(np.log1p(-np.asarray(self.betas)))[np.asarray(indices) - 1]])
        return DDPMChain(tuple((-np.expm1(np.diff(log_alpha_bar))).tolist()))


@dataclasses.dataclass(frozen=True, repr=False)
class NCSNLadder(Chain):
    """NCSN's noise levels: x at t = i/n is data plus sigma_i z, and at t = 0 the data (Song & Ermon 2019).

    Args:
        sigmas: sigma_1 < ... < sigma_n, all > 0. The papers number them the other way round, from the largest.
    """

    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", _floats(self.sigmas, "sigmas"))
        if not self.sigmas[0] > 0:
            raise ValueError(f"sigmas must be positive, got sigmas[0]={self.sigmas[0]}")
        for i, (low, high) in enumerate(zip(self.sigmas, self.sigmas[1:], strict=False)):
            if not low < high:
                raise ValueError(f"sigmas must increase, got sigmas[{i}]={low}, sigmas[{i + 1}]={high}; pass sigmas[::-1]?")

    def __repr__(self) -> str:
        n, low, high = len(self.sigmas), self.sigmas[0], self.sigmas[-1]
        return f"NCSNLadder({_named(self.sigmas, {f'geometric_sigmas({n}, {low}, {high})': geometric_sigmas(n, low, high)})})"

    def nodes(self) -> tuple[Sequence[float], Sequence[float]]:
        return [1.0] * (len(self.sigmas) + 1), [0.0, *self.sigmas]

    def _at(self, indices: Sequence[int]) -> NCSNLadder:
        return NCSNLadder(tuple(self.sigmas[i - 1] for i in indices))


@dataclasses.dataclass(frozen=True)
class AffineChain(Chain):
    """Any chain by its marginals at t = 0, 1/n, ..., 1; `sde.discretize(n)` makes it.

    Args:
        alphas: alpha_0 >= ... >= alpha_n > 0 (n + 1 of them).
        sigmas: sigma_0, ..., sigma_n with increasing sigma/alpha.
    """

    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("alphas", "sigmas"):
            object.__setattr__(self, name, _floats(getattr(self, name), name))
        if len(self.alphas) != len(self.sigmas):
            raise ValueError(f"alphas and sigmas must be as many, got {len(self.alphas)} and {len(self.sigmas)}")
        if not min(self.alphas) > 0:
            raise ValueError(f"alphas must be positive, got {min(self.alphas)}")
        if not min(self.sigmas) >= 0:
            raise ValueError(f"sigmas must not be negative, got {min(self.sigmas)}")
        ratio = np.asarray(self.sigmas) / np.asarray(self.alphas)
        if not (np.diff(ratio) > 0).all():
            i = int(np.argmin(np.diff(ratio)))
            raise ValueError(f"sigma/alpha must increase, got {ratio[i]} at node {i} and {ratio[i + 1]} at node {i + 1}")

    def nodes(self) -> tuple[Sequence[float], Sequence[float]]:
        return self.alphas, self.sigmas

    def _at(self, indices: Sequence[int]) -> AffineChain:
        return AffineChain(*(tuple(a[i] for i in (0, *indices)) for a in (self.alphas, self.sigmas)))


def linear_betas(n: int, beta_1: float = 1e-4, beta_n: float = 0.02) -> tuple[float, ...]:
    """n values in equal steps from beta_1 to beta_n; the defaults are Ho et al. 2020's for n = 1000."""
    return tuple(np.linspace(beta_1, beta_n, n).tolist())


def cosine_betas(n: int, s: float = 0.008, beta_max: float = 0.999) -> tuple[float, ...]:
    """beta_i = 1 - alpha_bar(i/n)/alpha_bar((i-1)/n), alpha_bar = cos^2((t + s)/(1 + s) pi/2), clipped (Nichol & Dhariwal 2021)."""
    alpha_bar = np.cos((np.arange(n + 1) / n + s) / (1 + s) * math.pi / 2) ** 2
    return tuple(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], beta_max).tolist())


def geometric_sigmas(n: int, sigma_min: float = 0.01, sigma_max: float = 50.0) -> tuple[float, ...]:
    """n levels in geometric progression from sigma_min to sigma_max."""
    return tuple(np.geomspace(sigma_min, sigma_max, n).tolist())


def ncsnv2_sigmas(d: int, sigma_min: float = 0.01, sigma_max: float = 50.0) -> tuple[float, ...]:
    """Geometric levels whose neighbours overlap by half in d dimensions (Song & Ermon 2020, arXiv 2006.09011, technique 2).

    The length of N(0, sigma^2 I) is nearly N(sqrt(d) sigma, sigma^2/2). The part of it within three standard deviations of the next
    level's, which is wider by gamma, is to be a half:

        Phi(sqrt(2d)(gamma - 1) + 3 gamma) - Phi(sqrt(2d)(gamma - 1) - 3 gamma) = 1/2

    The first term is 1 but for 1e-9, so the second argument is 0: gamma = sqrt(2d)/(sqrt(2d) - 3). The ratio returned is at most this.

    Args:
        d: dimension of the data, at least 5: in fewer, all levels overlap by more than half.
        sigma_min: smallest level, > 0.
        sigma_max: largest, such as `ncsnv2_sigma_max(data)`.

    Raises:
        ValueError: if d is less than 5 or the levels do not increase from above 0.
    """
    if d < 5:
        raise ValueError(f"neighbouring levels overlap by half only from d=5 dimensions, got d={d}; use geometric_sigmas(n)")
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"levels must increase from above 0, got sigma_min={sigma_min} and sigma_max={sigma_max}; swap them?")
    gamma = 1 / (1 - 3 / math.sqrt(2 * d))
    return geometric_sigmas(1 + math.ceil(math.log(sigma_max / sigma_min) / math.log(gamma)), sigma_min, sigma_max)


def ncsnv2_sigma_max(data: Tensor) -> float:
    """The largest distance between two of the data (n, *d), n >= 2: from there a sampler reaches all modes (the same, technique 1)."""
    if data.ndim < 2 or len(data) < 2:
        raise ValueError(f"data must have shape (n, *d) with n >= 2, for a distance, got {tuple(data.shape)}")
    points = data.flatten(1).double()
    return max(float(torch.cdist(part, points).max()) for part in points.split(1024))  # n^2 numbers at once are too many


def _floats(values: Sequence[float], name: str) -> tuple[float, ...]:
    floats = tuple(float(v) for v in values)
    if len(floats) < 2 or not all(map(math.isfinite, floats)):
        raise ValueError(f"{name} must be at least 2 finite numbers, got {floats[:4]}{'...' if len(floats) > 4 else ''}")
    return floats


def _named(values: tuple[float, ...], named: dict[str, tuple[float, ...]]) -> str:
    """The expression that makes the values: one of the named, rather than a thousand numbers."""
    return next((name for name, made in named.items() if made == values), repr(values))
