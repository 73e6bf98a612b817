"""Log-likelihoods by the probability flow.

The ODE of solvers/clock.py takes the state w = x/n from the data to the noise, and its divergence tells how the density changes,

    log p_t0(x) = log p_1(x_1) + d log(n_1/n_0) + int div dp                                     (1)

(Chen et al. 2018, neural ODEs; Song et al. 2021, section 4.3). n takes out the change of a Gaussian of the data's width, so that div is
what the data differ from it by. (1) is the density at t0, where a little noise has been added: without any, data on a surface have none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.likelihood.divergence import Divergence, ExactDivergence
from sde_diffusion.likelihood.hutchinson import EstimatedDivergence, check_probes
from sde_diffusion.noise import Noise, make_noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.solvers.adaptive import PAIRS, AdaptiveODE

LARGEST = 256  # dimensions of an exact trace

_LEAST_NOISE = 1e-3  # sigma/alpha at the default t_min: that of Song et al.'s 1e-5 for the VP SDE
_DIGITS = 100  # times the relative precision of the data: what noise is too small for a density


class LogLikelihood(NamedTuple):
    """What `log_likelihood` finds of b samples.

    Args:
        nats: log p_t0(x), (b,) float64.
        standard_error: of the probes, (b,) float64; 0 for exact traces.
        nfe: network calls of each sample, (b,).
        code: x at t_max in units of the prior's standard deviation, (b, *d).
        calls: network calls of the batch.
    """

    nats: Tensor
    standard_error: Tensor
    nfe: Tensor
    code: Tensor
    calls: int


def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    *,
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
    t_min: float | None = None,
    data_std: float = 0.7,
    differentiable: bool = False,
) -> LogLikelihood:
    """log p_t0(x) (1) under the probability-flow ODE of a denoiser, with its standard error.

    Args:
        denoiser: the model; its `sde` is the process.
        x: data (b, *d), floating point.
        method: "exact", the trace by d products per call, d at most 256 (exact denoisers have it in closed form), or "hutchinson", which
            estimates it by `probes` products per call.
        probes: vector-Jacobian products per call, all along one path; more than one also give a standard error that assumes nothing.
        distribution: of the probes: "rademacher", "gaussian" (brought to the length sqrt(d)), "sphere" (the same) or "orthogonal", of
            which at most d are drawn at right angles to each other.
        directions: how many of the products go to directions in which the trace is taken exactly, less than `probes`; for d up to a few
            hundred with a few steep directions.
        rtol: relative tolerance per step, > 0.
        atol: absolute tolerance per step, > 0, in units of the data.
        noise: the source of the probes; or `generator` or `seeds`, one per sample.
        cond: condition handed to the denoiser.
        t_min: t0, the time whose density is meant; by default where sigma/alpha = 1e-3, or the least time if there is more noise.
        data_std: standard deviation of the data, > 0; it is exact whatever its value, and quickest for the right one.
        differentiable: whether gradients flow to x and the parameters, at the cost of keeping all steps in memory.

    Raises:
        TypeError: for a model that is no Denoiser.
        ValueError: for data that are not floating point or not finite, more than 256 dimensions with "exact", an option out of range, and
            a denoiser whose samples have no density of this form (guidance).
        ArithmeticError: if the tolerance cannot be met.
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(
            f"log_likelihood takes a Denoiser, got a {type(denoiser).__name__}; a process that is not affine has no closed form here"
        )
    check_data(x)
    denoiser.check_density(cond)
    with torch.no_grad():
        start = check_start(denoiser.sde, x, t_min)
    solver = AdaptiveODE(rtol=rtol, atol=atol, data_std=data_std)
    if method == "exact":
        if x[0].numel() > LARGEST:
            raise ValueError(f"an exact trace of {x[0].numel()} dimensions (at most {LARGEST}) is too much; use method='hutchinson'")
        along: Divergence = ExactDivergence(PAIRS[solver.method], x, denoiser)
    elif method == "hutchinson":
        source = make_noise(noise, generator=generator, seeds=seeds)
        check_probes(x, probes, distribution, directions)
        along = EstimatedDivergence(x, probes=probes, distribution=distribution, directions=directions, noise=source)
    else:
        raise ValueError(f"method must be 'exact' or 'hutchinson', got {method!r}")
    grid = torch.tensor([start, denoiser.sde.t_max], dtype=torch.float64)
    with torch.set_grad_enabled(differentiable):
        (end,) = solver.integrate(denoiser, x, grid, cond, along=along)
        scale = solver.clock(denoiser.sde).scale(grid).log()
        prior = denoiser.sde.prior_log_prob(end.x.double())
        nats = prior + x[0].numel() * (scale[1] - scale[0]).to(prior) + along.total
    assert end.evaluations is not None
    return LogLikelihood(nats, along.variance.sqrt(), end.evaluations, end.x / denoiser.sde.prior_std, end.nfe)


def default_t_min(sde: AffineSDE) -> float:
    """The time at which sigma/alpha = 1e-3; 0 where there is more noise from the start; a chain's first node at least."""
    t = float(sde.t_of_log_snr(torch.tensor(-math.log(_LEAST_NOISE), dtype=torch.float64)))
    return min(max(t, 0.0 if sde.length is None else 1 / sde.length), sde.t_max)


def check_data(x: Tensor) -> None:
    """Raises ValueError unless x is a batch of finite floating-point samples."""
    if not x.is_floating_point():
        raise ValueError(
            f"x must be floating point, got {x.dtype}: integers have probabilities, not densities; use bits_per_dim, which dequantises"
        )
    if x.ndim < 2 or not len(x):
        raise ValueError(f"x must have shape (b, *d), b >= 1, got {tuple(x.shape)}; add a batch dimension: x[None]")
    if not x.isfinite().all():
        raise ValueError(f"x holds {int((~x.isfinite()).sum())} values that are not finite; leave those samples out")


def check_start(sde: AffineSDE, x: Tensor, t_min: float | None) -> float:
    """t_min, or its default, or ValueError where there is none or too little noise for the precision of x."""
    if t_min is None:
        return default_t_min(sde)
    if not 0 <= t_min < sde.t_max:
        raise ValueError(f"t_min must lie in [0, {sde.t_max}), got {t_min}")
    noise, least = float(sde.sigma(t_min) / sde.alpha(t_min)), _DIGITS * torch.finfo(x.dtype).eps
    if noise < least:
        suggestion = float(sde.t_of_log_snr(torch.tensor(-math.log(least), dtype=torch.float64)))
        raise ValueError(
            f"t_min={t_min:g} has sigma/alpha={noise:.3g}, which {x.dtype} does not resolve (at least {least:.2g});"
            f" use t_min >= {suggestion:.3g} (the default is {default_t_min(sde):.3g}), or x.double()"
        )
    return float(t_min)
