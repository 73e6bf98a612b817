"""Denoisers that are exact: the ground truth of tests and benchmarks.

Data from a mixture sum_k w_k N(m_k, C_k) stay one under every affine process: p_t = sum_k w_k N(alpha m_k, alpha^2 C_k + sigma^2 I). With
C_k = U_k diag(s_k^2) U_k^T, y_k = U_k^T (x - alpha m_k), v_k = alpha^2 s_k^2 + sigma^2 and responsibilities r_k ~ w_k N(y_k; 0, v_k),

    x0_hat = sum_k r_k (m_k + U_k (alpha s_k^2/v_k) y_k)                                         (1)
    score  = -sum_k r_k U_k (y_k/v_k)                                                            (2)
    log p_t = logsumexp_k (log w_k - |y_k|^2_(1/v_k)/2 - sum log(2 pi v_k)/2)                    (3)

    tr d x0_hat/dx = sum_k r_k (sum alpha s_k^2/v_k - (mu_k - x0_hat) . w_k),    w_k = U_k (y_k/v_k)    (4)

with mu_k the bracket of (1): (4) is (1) differentiated, grad r_k = r_k (sum_l r_l w_l - w_k), and says alpha/sigma^2 tr Cov[x_0 | x_t]
without dividing by sigma. One mode is the Gaussian; equal weights and s_k = 0 are the empirical distribution, whose x0_hat is a softmax
over the data.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers.base import Denoiser
from sde_diffusion.noise import Noise, make_noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.shapes import Time, as_time, check_time_shape

_ASYMMETRY = 1e-6  # of covariances, relative: what float32 rounding leaves


class ExactDenoiser(Denoiser, abc.ABC):
    """A denoiser whose data law is known: it also gives the density and samples."""

    @abc.abstractmethod
    def log_prob(self, x: Tensor, t: Time) -> Tensor:
        """log p_t(x) in nats, shape (b,)."""

    @abc.abstractmethod
    def sample_data(
        self, n: int, *, noise: Noise | None = None, generator: torch.Generator | None = None, seeds: Iterable[int] | None = None
    ) -> Tensor:
        """n draws from the data law, shape (n, *d)."""


class GaussianMixtureDenoiser(ExactDenoiser):
    """The exact denoiser of a Gaussian mixture (1), float64 inside, in the dtype of x outside.

    Args:
        means: (k, *d).
        stds: () or (k,) or (k, *d): standard deviations of all modes, per mode, or per mode and coordinate; >= 0.
        weights: (k,) positive, summing to 1; None for equal ones.
        sde: the process.
        covariances: (k, D, D) full covariances of the flattened modes, instead of `stds=None`.

    Raises:
        ValueError: for shapes that do not fit, weights that do not sum to 1, negative standard deviations or indefinite covariances.
    """

    means: Tensor
    variances: Tensor
    log_weights: Tensor
    rotations: Tensor | None

    def __init__(self, means: Any, stds: Any, weights: Any, sde: AffineSDE, *, covariances: Any = None) -> None:
        super().__init__(sde)
        centers = _tensor(means)
        if centers.ndim < 2:
            raise ValueError(f"means must have shape (k, *d), got {tuple(centers.shape)}")
        k, self.event_shape = len(centers), tuple(centers.shape[1:])
        w = torch.full((k,), 1 / k, dtype=torch.float64) if weights is None else _tensor(weights)
        if w.shape != (k,) or not (w > 0).all() or abs(float(w.sum()) - 1) > 1e-6:
            raise ValueError(f"weights must be {k} positive numbers that sum to 1, got {w.tolist()}; divide by their sum?")
        if (stds is None) == (covariances is None):
            raise ValueError("pass either stds or covariances (with stds=None)")
        rotations = None
        if covariances is None:
            s = _tensor(stds)
            if s.shape not in {(), (k,), tuple(centers.shape)}:
                raise ValueError(f"stds must have shape (), ({k},) or {tuple(centers.shape)}, got {tuple(s.shape)}")
            if not (s >= 0).all():
                raise ValueError(f"stds must not be negative, got {s.min().item()}")
            variances = (s if s.ndim != 1 else s.reshape(k, *[1] * (centers.ndim - 1))).expand_as(centers).flatten(1) ** 2
        else:
            c = _tensor(covariances)
            size = centers[0].numel()
            if c.shape != (k, size, size):
                raise ValueError(f"covariances must have shape ({k}, {size}, {size}), got {tuple(c.shape)}")
            if (c - c.mT).abs().max() > _ASYMMETRY * c.abs().max():
                raise ValueError(f"covariances must be symmetric, got a difference of {(c - c.mT).abs().max().item():.3g}")
            variances, rotations = torch.linalg.eigh(c)
            if variances.min() < -1e-12 * variances.max():
                raise ValueError(f"covariances must be positive semi-definite, got an eigenvalue {variances.min().item():.3g}")
            variances = variances.clamp(min=0)
        self.register_buffer("means", centers.flatten(1))
        self.register_buffer("variances", variances.contiguous())
        self.register_buffer("log_weights", (w / w.sum()).log())
        self.register_buffer("rotations", rotations)

    def _modes(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(alpha, y_k, v_k, log of w_k N(y_k; 0, v_k)) in float64: (b or 1, 1, 1), (b, k, D), (b or 1, k, D), (b, k)."""
        t = _times(t, x, self.event_shape)[:, None, None]
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        y = x.flatten(1).double()[:, None] - alpha * self.means
        if self.rotations is not None:
            y = torch.einsum("bki,kij->bkj", y, self.rotations)
        v = alpha**2 * self.variances + sigma**2
        log_prob = self.log_weights - 0.5 * ((y**2 / v).sum(-1) + torch.log(2 * math.pi * v).sum(-1))
        return alpha, y, v, log_prob

    def _average(self, x: Tensor, log_prob: Tensor, y: Tensor, means: Tensor | float) -> Tensor:
        """sum_k r_k (means_k + U_k y_k), shaped and typed like x."""
        if self.rotations is not None:
            y = torch.einsum("bkj,kij->bki", y, self.rotations)
        return torch.einsum("bk,bkd->bd", log_prob.softmax(1), y + means).to(x.dtype).reshape(x.shape)

    def forward(self, x: Tensor, t: Time, cond: Any = None) -> Tensor:
        alpha, y, v, log_prob = self._modes(x, t)
        gain = alpha * self.variances / v
        if self.rotations is not None or len(alpha) > 1:
            return self._average(x, log_prob, gain * y, self.means)
        r, gain = log_prob.softmax(1), gain[0]  # one time for all: two products of matrices instead of (b, k, D) numbers
        flat = x.flatten(1).double()
        return (r @ (self.means * (1 - alpha[0] * gain)) + flat * (r @ gain)).to(x.dtype).reshape(x.shape)

    def jacobian_trace(self, x: Tensor, t: Time, cond: Any = None) -> tuple[Tensor, Tensor]:
        """x0_hat (b, *d) and the trace of its Jacobian (b,), float64, by (4): no differentiation, about two calls' work."""
        alpha, y, v, log_prob = self._modes(x, t)
        r, slopes, w = log_prob.softmax(1), alpha * self.variances / v, y / v
        shifts = slopes * y
        if self.rotations is not None:
            w, shifts = (torch.einsum("bkj,kij->bki", a, self.rotations) for a in (w, shifts))
        centers = self.means + shifts
        x0_hat = torch.einsum("bk,bkd->bd", r, centers)
        trace = (r * (slopes.sum(-1) - torch.einsum("bkd,bkd->bk", centers - x0_hat[:, None], w))).sum(1)
        return x0_hat.to(x.dtype).reshape(x.shape), trace

    def score(self, x: Tensor, t: Time, cond: Any = None) -> Tensor:
        _, y, v, log_prob = self._modes(x, t)
        return self._average(x, log_prob, -y / v, 0.0)

    def log_prob(self, x: Tensor, t: Time) -> Tensor:
        return self._modes(x, t)[3].logsumexp(1).to(x.dtype)

    def sample_data(
        self, n: int, *, noise: Noise | None = None, generator: torch.Generator | None = None, seeds: Iterable[int] | None = None
    ) -> Tensor:
        draw = make_noise(noise, generator=generator, seeds=seeds)
        # The mode of a draw is the quantile of one more normal number, so that one noise source is enough.
        u = torch.special.ndtr(draw(self.means.new_empty(n)))
        k = torch.searchsorted(self.log_weights.exp().cumsum(0), u).clamp(max=len(self.means) - 1)
        y = self.variances[k].sqrt() * draw(self.means.new_empty(n, self.means.shape[1]))
        if self.rotations is not None:
            y = torch.einsum("bj,bij->bi", y, self.rotations[k])
        return (self.means[k] + y).reshape(n, *self.event_shape)


class GaussianDenoiser(GaussianMixtureDenoiser):
    """The exact denoiser of Gaussian data: affine in x, so that every affine sampler's output law is known exactly.

    Args:
        mean: (*d), or a number for one-dimensional data (b, 1).
        std: a number or (*d).
        sde: the process.
        covariance: (D, D) instead of `std=None`.
    """

    def __init__(self, mean: Any, std: Any, sde: AffineSDE, *, covariance: Any = None) -> None:
        m = torch.atleast_1d(_tensor(mean))
        s = None if std is None else _tensor(std).expand(m.shape)[None]
        super().__init__(m[None], s, None, sde, covariances=None if covariance is None else _tensor(covariance)[None])

    @property
    def mean(self) -> Tensor:
        """Mean of the data, (*d)."""
        return self.means[0].reshape(self.event_shape)


class EmpiricalDenoiser(ExactDenoiser):
    """The exact denoiser of a finite data set: the one that memorises it.

        x0_hat = sum_i softmax_i(-|x - alpha x_i|^2/(2 sigma^2)) x_i

    Args:
        data: (n, *d), floating point; x is denoised in the wider of the two dtypes, float32 at least.
        sde: the process.
    """

    data: Tensor

    def __init__(self, data: Tensor, sde: AffineSDE) -> None:
        super().__init__(sde)
        if data.ndim < 2 or len(data) == 0 or not data.is_floating_point():
            raise ValueError(f"data must be floating point of shape (n, *d), n >= 1, got {data.dtype} {tuple(data.shape)}")
        self.register_buffer("data", data)

    def _log_kernels(self, x: Tensor, t: Time) -> Tensor:
        """log N(x; alpha x_i, sigma^2 I), (b, n)."""
        dtype = torch.promote_types(torch.promote_types(x.dtype, self.data.dtype), torch.float32)
        t = _times(t, x, self.data.shape[1:])[:, None]
        alpha, sigma = self.sde.alpha(t).to(dtype), self.sde.sigma(t).to(dtype)
        points = self.data.flatten(1).to(dtype)
        distance = torch.cdist(x.flatten(1).to(dtype) / alpha, points, compute_mode="donot_use_mm_for_euclid_dist")
        return -0.5 * (distance * alpha / sigma) ** 2 - points.shape[1] * torch.log(sigma * math.sqrt(2 * math.pi))

    def forward(self, x: Tensor, t: Time, cond: Any = None) -> Tensor:
        weights = self._log_kernels(x, t).softmax(1)
        return (weights @ self.data.flatten(1).to(weights)).to(x.dtype).reshape(x.shape)

    def jacobian_trace(self, x: Tensor, t: Time, cond: Any = None) -> tuple[Tensor, Tensor]:
        """x0_hat (b, *d) and the trace of its Jacobian (b,), float64: alpha/sigma^2 tr Cov[x_0 | x_t], about two calls' work."""
        weights = self._log_kernels(x, t).softmax(1)
        points = self.data.flatten(1).to(weights)
        x0_hat = weights @ points
        spread = (weights * torch.cdist(x0_hat, points, compute_mode="donot_use_mm_for_euclid_dist") ** 2).sum(1)
        t = _times(t, x, self.data.shape[1:])
        return x0_hat.to(x.dtype).reshape(x.shape), self.sde.alpha(t) / self.sde.sigma(t) ** 2 * spread

    def log_prob(self, x: Tensor, t: Time) -> Tensor:
        return (self._log_kernels(x, t).logsumexp(1) - math.log(len(self.data))).to(x.dtype)

    def sample_data(
        self, n: int, *, noise: Noise | None = None, generator: torch.Generator | None = None, seeds: Iterable[int] | None = None
    ) -> Tensor:
        u = torch.special.ndtr(make_noise(noise, generator=generator, seeds=seeds)(self.data.new_empty(n, dtype=torch.float64)))
        return self.data[(u * len(self.data)).long().clamp(max=len(self.data) - 1)]


def _times(t: Time, x: Tensor, event_shape: Sequence[int]) -> Tensor:
    """Float64 times (1,) or (b,) for states x, checked, for broadcasting would hide a wrong shape."""
    t = as_time(t, x)
    if tuple(x.shape[1:]) != tuple(event_shape):
        raise ValueError(f"states must have shape (b, {', '.join(map(str, event_shape))}) like the data, got {tuple(x.shape)}")
    check_time_shape(t, x)
    return t.to(x.device, torch.float64).reshape(-1)


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)
