"""The trace of the flow's Jacobian, estimated by products with random vectors (Hutchinson 1989).

With A the Jacobian of dw/dp in the variables of solvers/clock.py, and D a diagonal that does not depend on the probe u, E[u u^T] = I,

    tr A = sum D + E[u . (A - D) u]                                                              (1)

D is learned from the probes of before. For Rademacher probes (1) has the same value whatever D; from the others D takes what they would
pay for a diagonal that they see with random weights, and |u|^2 = d what they would pay for its mean. What is learned has to hold at other
times: the diagonal of Gaussian data whose standard deviations are c exp(theta_i/2) times a common factor, to first order in theta,

    D_i = m + theta_i dm/dlog(v),    m = a (1 - v)/(1 + v a^2),    dm/dlog(v) = -v a (1 + a^2)/(1 + v a^2)^2       (2)

(a = 1/tan p in the variables of the angle); v follows the mean of the looks u * r at the diagonal, theta a Kalman filter.

Every stage of every step has fresh probes. A quadrature is a sum: its expectation is that of the exact traces, whatever the noise of its
terms, and their errors are independent, while those of one probe for a whole path (Grathwohl et al. 2019, FFJORD; Song et al. 2021) all
point to one side. Steps are chosen by the state alone, so that nothing is biased. The variance is a sum over the stages,

    Var = sum_i (h beta_i)^2 V_i,    V_i = 2 E[|r|^2 - (u . r)^2/d]  with r = (A - D) u          (3)

(one probe on a sphere and symmetric A: exact; for signs times d/(d - 2), and too large by what D leaves of the diagonal; for other A too
large), to which a few probes add the variance between them, and which four do without. Weights beta of order 4 may have the sum of squares
.45, the method's own of order 5 have .76.

Part of the products may be spent on k directions Q, over which the trace is then exact, while the probes see the rest (Meyer et al. 2021,
Hutch++):

    tr A = tr Q^T A Q + tr (I - QQ^T) A (I - QQ^T)                                               (4)

Q are the latest A u, which point to where A is large.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers.jacobian import recorded, vector_jacobian
from sde_diffusion.likelihood.divergence import Divergence
from sde_diffusion.noise import Noise
from sde_diffusion.sdes.base import check_count
from sde_diffusion.solvers.clock import Slopes

DISTRIBUTIONS = ("rademacher", "gaussian", "sphere", "orthogonal")

# Weights of dopri5's stages, the last of which is the next step's first: of order 4 as a quadrature along the path (the rooted trees up to
# order 4), no product at the second stage, and with the least sum of squares.
_BETA = (0.08258035071330948, 0.0, 0.4787883677096977, 0.39407718806591685, 0.031071188490467846, -0.16023955938553405, 0.1737224644061421)

# Of (2), on a mixture in 64 dimensions: the error of one Gaussian probe over that of signs is 1.04, without D 1.53.
_MEMORY = 0.3  # share of the latest look in the mean
_SPREAD, _DRIFT = 0.3, 0.003  # variance of theta before the first look, and what each stage adds to it; 0 and .03 leave 2 % more error
_RATIOS = 1e-3, 1e3  # of v
_WORTH = 2  # how many probes (3) is worth beside the variance between probes: two probes alone cover .88 of what they should .95
_ENOUGH = 4  # probes whose own variance says enough: (3) of signs is too long on networks, which see coordinates of very different widths
_RANK = 1e-5  # of a vector's length: a direction of which less is left by the others is rounding


class EstimatedDivergence(Divergence):
    """The divergence by (1).

    Args:
        x: the batch.
        probes: vector-Jacobian products per call.
        distribution: of the probes.
        directions: how many of them are spent on (4).
        noise: where the probes come from.
    """

    def __init__(self, x: Tensor, *, probes: int, distribution: str, directions: int = 0, noise: Noise) -> None:
        super().__init__(_BETA, x)
        self.probes, self.distribution, self.directions, self.noise = probes - directions, distribution, directions, noise
        self.theta = x.new_zeros(x.flatten(1).shape)
        self.uncertainty = self.theta[:, :1] + _SPREAD
        self.ratio = torch.ones_like(self.uncertainty)
        self.latest = x.new_zeros(directions, *x.flatten(1).shape)

    def evaluate(self, slopes: Slopes, row: int, w: Tensor, cond: Any, out: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        record = torch.is_grad_enabled()
        with recorded(record):
            z = w * slopes.into[row] if record and w.requires_grad else (w * slopes.into[row]).detach().requires_grad_()
            raw = slopes.raw[row](z, cond)
        basis = _orthonormal(self.latest)
        u, free = self._draw(basis)
        vectors = torch.cat([basis, u]) if len(basis) else u
        products = vector_jacobian(raw, z, vectors.reshape(-1, *w.shape), record=record).flatten(2)
        slope = slopes.sum(row, w, raw if record else raw.detach(), out)
        of_w, of_raw = slopes.of_w[row].reshape(-1, 1), (slopes.of_raw[row] * slopes.into[row]).reshape(-1, 1)
        applied = torch.addcmul(vectors * of_w, products, of_raw)
        value, variance = self._estimate(applied, vectors, basis, free, slopes.at.a[row].to(w).reshape(-1, 1))
        return slope, value, variance

    def keep(self, index: Tensor) -> None:
        super().keep(index)
        self.theta, self.uncertainty, self.ratio = self.theta[index], self.uncertainty[index], self.ratio[index]
        self.latest = self.latest[:, index]

    def _estimate(self, applied: Tensor, vectors: Tensor, basis: Tensor, free: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """(1) with (4), and (3), from A applied to the vectors, which are the directions and then the probes, (k, b, d)."""
        bend = 1 + self.ratio * a**2
        mean, rate = a * (1 - self.ratio) / bend, -self.ratio * a * (1 + a**2) / bend**2
        diagonal = mean + rate * self.theta
        rest = torch.addcmul(applied, vectors, diagonal, value=-1)
        looks = vectors * rest
        exact, each = looks.sum(-1).double().split([len(basis), self.probes])
        value = diagonal.sum(-1).double() + exact.sum(0) + each.mean(0)
        with torch.no_grad():
            k, r = self.probes, rest[len(basis) :]
            for q in basis:
                r = r - (r * q).sum(-1, keepdim=True) * q
            square = torch.linalg.vector_norm(r, dim=-1).double() ** 2
            variance = self._spread(square, each, free).mean(0) / k
            if k > 1:
                worth = _WORTH if k < _ENOUGH else 0
                variance = ((k - 1) * each.var(0) / k + worth * variance) / (k - 1 + worth)
            if self.distribution == "orthogonal":
                variance = variance * ((free - k) / (free - 1).clamp(min=1)).clamp(min=0)  # k of d axes leave so much to the others
            noise = (square.mean(0) / (k * self.dimension)).to(a)[:, None]
            self._learn(looks[len(basis) :].mean(0) if k > 1 else looks[-1], noise, a, mean, rate)
            if len(basis):
                self.latest = torch.cat([applied[len(basis) :], self.latest])[: len(basis)]
        return value, variance

    def _spread(self, square: Tensor, each: Tensor, free: Tensor) -> Tensor:
        """(3) for each probe, (k, b), from |r|^2 and u . r."""
        if self.distribution != "rademacher":
            return 2 * (square - each**2 / free).clamp(min=0)
        if self.directions:  # projected signs see some of the diagonal, too
            return 2 * square
        # Signs leave |r|^2 - (u . r)^2/d only 1 - 2/d of what is off the diagonal; in two dimensions all of it is in u . r.
        beyond = (square - each**2 / free).clamp(min=0) * (free / (free - 2).clamp(min=1))
        return torch.where(free > 2, 2 * beyond, each**2 * (free > 1))

    def _learn(self, surprise: Tensor, noise: Tensor, a: Tensor, mean: Tensor, rate: Tensor) -> None:
        """(2) after a look at the diagonal that was off by `surprise` (b, d), with a variance of `noise` (b, 1)."""
        off = surprise.mean(-1, keepdim=True)
        before = self.uncertainty + _DRIFT
        gain = before * rate / (rate**2 * before + noise).clamp(min=torch.finfo(noise.dtype).tiny)
        self.theta = torch.addcmul(self.theta, gain, surprise - off)
        self.uncertainty = before * (1 - gain * rate)
        mean = mean + _MEMORY * off
        ratio = (a - mean) / (a * (1 + mean * a))
        self.ratio = torch.where(ratio.isfinite(), ratio.clamp(*_RATIOS), self.ratio)

    def _draw(self, basis: Tensor) -> tuple[Tensor, Tensor]:
        """Probes (k, b, d) orthogonal to the basis, and the number of dimensions they live in, (b,)."""
        b, d = self.samples, self.dimension
        # The whole batch's, so that a sample's own seed gives it the same; float32, for float64 would cost a tenth of a small network.
        normal = self.noise(torch.empty(b, self.probes, d, device=basis.device))[self.index].transpose(0, 1).to(basis.dtype)
        free = d - (basis**2).sum((0, -1)).double()
        if self.distribution == "rademacher":
            u = torch.copysign(normal.new_ones(()), normal)
        elif self.distribution == "orthogonal":
            u = _orthonormal(normal) * d**0.5
        else:
            u = normal
        for q in basis:
            u = u - (u * q).sum(-1, keepdim=True) * q
        if self.distribution != "rademacher":
            u = u * (free.sqrt().to(u)[:, None] / torch.linalg.vector_norm(u, dim=-1, keepdim=True))
        return u, free


def check_probes(x: Tensor, probes: int, distribution: str, directions: int) -> None:
    """Raises ValueError for a law that is not known and numbers that do not fit."""
    if distribution not in DISTRIBUTIONS:
        raise ValueError(f"distribution must be {', '.join(map(repr, DISTRIBUTIONS[:-1]))} or {DISTRIBUTIONS[-1]!r}, got {distribution!r}")
    check_count(probes=probes)
    d = x[0].numel()
    if not 0 <= directions < probes:
        raise ValueError(f"directions must leave at least one of the {probes} probes, got {directions}")
    if (distribution == "orthogonal" and probes > d) or (directions and probes > d):
        raise ValueError(f"{probes} orthogonal probes do not fit into {d} dimensions; use method='exact'")


def _orthonormal(vectors: Tensor) -> Tensor:
    """Gram-Schmidt of k vectors (k, b, d) per sample, twice; one that the others span becomes 0."""
    found: list[Tensor] = []
    for v in vectors:
        length = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
        for _ in range(2):
            for q in found:
                v = v - (v * q).sum(-1, keepdim=True) * q
        left = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
        found.append(torch.where(left > _RANK * length, v / left, 0.0))
    return torch.stack(found) if found else vectors
