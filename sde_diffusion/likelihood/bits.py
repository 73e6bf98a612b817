"""Bits per dimension of quantised data: an upper bound on -log2 P(k)/d, P(k) the model's probability of d integers.

With states x_1..x_K drawn by a dequantisation q (dequantization.py, (4)),

    bits = -log2(1/K sum_i p_t(x_i)/q(x_i))/d,    E[bits] >= -log2 P(k)/d                                                         (1)

For uniform noise and K = 1 this is the -log2 p(x)/d - log2 w of the usual tables: on [-1, 1] a bin adds log2(256/2) = 7 bits for 8-bit
images and log2(17/2) = 3.087 for the digits. The bound holds in expectation over the x_i, hence for the mean over data up to its error;
that of a single sample may lie below. Continuous data have no bits: another scale would change them.

Theis et al. 2016 (arXiv 1511.01844); Burda et al. 2016 (1509.00519) for K > 1; Zheng et al. 2023 (2305.03935).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.likelihood.dequantization import LAWS, Dequantization, Quantization
from sde_diffusion.likelihood.flow import check_start, default_t_min, log_likelihood
from sde_diffusion.noise import Noise, PerSample, make_noise
from sde_diffusion.sdes.base import check_count
from sde_diffusion.solvers.adaptive import select

BATCH = 256  # states whose flow is solved together


class BitsPerDim(NamedTuple):
    """Bounds on -log2 P(k) by (1); all float64 but the calls.

    Args:
        bits: (n,) bits per dimension.
        standard_error: (n,) of the estimate of a sample's own bits: over its K states for K > 1, else that of its log-likelihood, which is
            0 where exact and knows nothing of the noise of the one state.
        nats: (n,) the same bounds in nats, not divided by the dimension.
        nfe: (n,) network calls for a sample, over its K states.
        t: the time at which the density was taken.
    """

    bits: Tensor
    standard_error: Tensor
    nats: Tensor
    nfe: Tensor
    t: float

    @property
    def mean(self) -> float:
        """Over the data."""
        return self.bits.mean().item()

    @property
    def mean_error(self) -> float:
        """Standard error of `mean`, over the data, with all randomness in it; NaN for a single sample."""
        n = len(self.bits)
        return self.bits.std().item() / math.sqrt(n) if n > 1 else math.nan


@torch.no_grad()
def bits_per_dim(
    denoiser: Denoiser,
    x: Tensor,
    *,
    quantization: Quantization | None = None,
    dequantization: str | Dequantization = "uniform",
    importance: int = 1,
    method: str = "exact",
    probes: int = 1,
    distribution: str = "rademacher",
    directions: int = 0,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    noise: Noise | None = None,
    generator: torch.Generator | None = None,
    seeds: Iterable[int] | None = None,
    cond: Any = None,
    batch_size: int = BATCH,
    t_min: float | None = None,
    data_std: float = 0.7,
) -> BitsPerDim:
    """Bounds on the bits per dimension of quantised data, by (1).

    Args:
        denoiser: the model.
        x: integers (n, *d), or the data that `quantization` makes of them.
        quantization: how integers became data, such as Quantization(256).
        dequantization: "uniform", for a model of dequantised data; "truncated_normal", for one of data on the grid; or a law, such as
            TruncatedNormal(tau=4.0).
        importance: K >= 1, states per sample; the bound falls with K, and so does its noise.
        method: "exact", or "hutchinson", which log_likelihood explains.
        probes: of Hutchinson's estimate.
        distribution: of the probes, as of log_likelihood.
        directions: how many of the probes' products take the trace exactly, as of log_likelihood.
        rtol: relative tolerance of the flow.
        atol: absolute tolerance.
        noise: of the states and the probes; or `generator`; or `seeds`, one per sample, with which its bits do not depend on the batch.
        cond: condition of the denoiser; tensors of leading dimension n are divided as the data are.
        batch_size: most states whose flow is solved together, if K is no more.
        t_min: time at which the density is taken; None: log_likelihood's own, or where `TruncatedNormal` says.
        data_std: standard deviation of the data, > 0, for the flow's clock.

    Raises:
        ValueError: without quantization, for data that it does not explain, another dequantization, importance > 1 with "hutchinson", a
            t_min out of range, and where log_likelihood raises it.
        ArithmeticError: if the tolerance cannot be met.
    """
    if not isinstance(quantization, Quantization):
        raise ValueError(
            f"bits per dimension are those of integers, got {x.dtype} data and quantization={quantization}; pass Quantization(256) for "
            "8-bit images, or call log_likelihood for the density of continuous data"
        )
    law = LAWS.get(dequantization) if isinstance(dequantization, str) else dequantization
    if not isinstance(law, Dequantization):
        raise ValueError(f"dequantization must be {', '.join(map(repr, LAWS))} or a law such as TruncatedNormal(), got {dequantization!r}")
    check_count(importance=importance, batch_size=batch_size)
    if importance > 1 and method != "exact":
        raise ValueError(
            f"importance={importance} averages densities, and those of method={method!r}, whose log p is right on average, are too large: "
            "that is no bound; take importance=1 and more probes, or method='exact'"
        )
    if x.ndim < 2 or not len(x):
        raise ValueError(f"x must be data of shape (n, *d), n >= 1, got {tuple(x.shape)}; add a dimension?")
    per_sample = None if seeds is None else tuple(seeds)
    if per_sample is not None and len(per_sample) != len(x):
        raise ValueError(f"seeds must be one per sample, got {len(per_sample)} for {len(x)} samples")
    shared = make_noise(noise, generator=generator, seeds=per_sample)
    like, integers = denoiser.like, quantization.integers(x)
    t = law.time(denoiser.sde, quantization, default_t_min(denoiser.sde)) if t_min is None else check_start(denoiser.sde, like, t_min)
    found: list[tuple[Tensor, ...]] = []
    for rows in torch.arange(len(x)).split(max(1, batch_size // importance)):
        source = shared if per_sample is None else PerSample(per_sample[i] for i in rows.tolist())
        many = _Repeated(source, importance)
        copies = rows.repeat_interleave(importance)
        state, log_q = law.draw(denoiser.sde, t, quantization, integers[copies.to(x.device)].to(like.device), many)
        flow = log_likelihood(denoiser, state.to(like.dtype), method=method, probes=probes, distribution=distribution,
                              directions=directions, rtol=rtol, atol=atol, noise=many, cond=select(cond, copies, len(x)), t_min=t,
                              data_std=data_std)  # fmt: skip
        found.append(_averaged(flow.nats - log_q, flow.standard_error, flow.nfe, importance))
    nats, error, nfe = map(torch.cat, zip(*found, strict=True))
    unit = math.log(2) * x[0].numel()
    return BitsPerDim(nats / unit, error / unit, nats, nfe, t)


class _Repeated:
    """Draws for K states per sample, b K rows in all, as K draws of b rows each: what a sample gets does not depend on the others."""

    def __init__(self, noise: Noise, k: int) -> None:
        self.noise, self.k = noise, k

    def __call__(self, x: Tensor) -> Tensor:
        if self.k == 1:
            return self.noise(x)
        return torch.stack([self.noise(x[:: self.k]) for _ in range(self.k)], 1).flatten(0, 1)


def _averaged(log_ratio: Tensor, error: Tensor, nfe: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """(1) in nats of log p/q (b K,), its standard error, and the calls."""
    log_ratio = log_ratio.view(-1, k)
    nats = math.log(k) - log_ratio.logsumexp(1)
    if k > 1:  # of log mean, to first order: the relative error of the mean
        weights = log_ratio.softmax(1) * k
        error = weights.std(1) / math.sqrt(k)
    return nats, error, nfe.view(-1, k).sum(1)
