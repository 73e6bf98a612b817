"""Codes: data as the noise that the probability flow turns into them, and back.

    z = x(t_max)/prior_std,  x(t_min) = data            encode                                                                     (1)
    x(t_max) = temperature prior_std z                  decode                                                                     (2)

both by dx/dt = f x - g^2/2 score (Song et al. 2021, arXiv 2011.13456, section 4.3). The flow is invertible, a code has as many numbers as
its data, and those of the model's own law are standard normal, but for what is left of the data at t_max. For data N(m, S) the flow is

    x(t) = alpha_t m + V_t^(1/2) V_min^(-1/2) (x - alpha_min m),    V_t = alpha_t^2 S + sigma_t^2 I                                (3)

so that z is affine in x, and temperature T multiplies the variance of decode(z) over z by exactly T^2. For other data a temperature less
than 1 moves samples to where the density is high, and the law of (2) is not a power of p.

Between two codes, the straight line leaves the shell |z| = sqrt(d) on which standard normal numbers lie; the great circle stays on it:

    z_w = |z|_w (cos(w Omega) a + sin(w Omega) c),    Omega the angle between the codes, |z|_w = (1 - w)|z_0| + w |z_1|            (4)

a the direction of z_0, c the direction, orthogonal to a, in which z_1 lies (Shoemake 1985, doi:10.1145/325334.325242).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.likelihood.flow import check_data, check_start
from sde_diffusion.noise import Replay
from sde_diffusion.sdes.base import check_positive
from sde_diffusion.solvers.adaptive import AdaptiveODE

TOLERANCE = 1e-6  # at 1e-5 the round trip misses by 2e-4 on a ring of 8 Gaussians, here by 3e-6; a third more calls, in float32 too
_PARALLEL = 1e-12  # sine of the angle below which two directions have no plane of their own


def encode(
    denoiser: Denoiser,
    x: Tensor,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    cond: Any = None,
    t_min: float | None = None,
    solver: AdaptiveODE | None = None,
) -> Tensor:
    """The code (1) of data, (b, *d) in units of the prior.

    Args:
        denoiser: the model.
        x: (b, *d), floating point.
        rtol: relative tolerance of a step, > 0; None: 1e-6.
        atol: absolute tolerance, > 0, in units of the data; None: 1e-6.
        cond: condition of the denoiser.
        t_min: the time at which x counts as the state; None: that of log_likelihood.
        solver: with its own tolerances, instead of rtol and atol.

    Raises:
        ValueError: if x is not floating point (b, *d), t_min is not in [0, t_max), or a tolerance is given beside a solver.
        ArithmeticError: if the tolerance cannot be met.
    """
    low, high = _ends(denoiser, x, t_min)
    return _flow(denoiser, x, low, high, rtol, atol, cond, solver) / denoiser.sde.prior_std


def decode(
    denoiser: Denoiser,
    z: Tensor,
    *,
    temperature: float = 1.0,
    rtol: float | None = None,
    atol: float | None = None,
    cond: Any = None,
    t_min: float | None = None,
    solver: AdaptiveODE | None = None,
) -> Tensor:
    """The data (b, *d) of codes, (2): the inverse of `encode`.

    Args:
        denoiser: the model.
        z: (b, *d), standard normal for samples of the model.
        temperature: what multiplies the codes, > 0; for Gaussian data it multiplies the standard deviation.
        rtol: relative tolerance of a step, > 0; None: 1e-6.
        atol: absolute tolerance, > 0, in units of the data; None: 1e-6.
        cond: condition of the denoiser.
        t_min: where the flow ends; None: that of log_likelihood.
        solver: with its own tolerances, instead of rtol and atol.

    Raises:
        ValueError: if z is not floating point (b, *d), temperature not positive, t_min not in [0, t_max), or a tolerance is given beside a
            solver.
        ArithmeticError: if the tolerance cannot be met.
    """
    check_positive(temperature=temperature)
    if not z.is_floating_point():
        raise ValueError(f"z must be floating point, got {z.dtype}; codes are normal numbers: torch.randn(b, *d)")
    low, high = _ends(denoiser, z, t_min)
    return _flow(denoiser, z * (temperature * denoiser.sde.prior_std), high, low, rtol, atol, cond, solver)


def interpolate(a: Tensor, b: Tensor, weights: Sequence[float] | Tensor, *, spherical: bool = True) -> Tensor:
    """Codes between two, (k, b, *d), sample by sample: a at weight 0, b at weight 1.

    Args:
        a: (b, *d).
        b: (b, *d).
        weights: (k,) in any order; outside of [0, 1] the path goes on.
        spherical: (4), which keeps a common norm. Opposite codes have many shortest circles: that towards the axis to which a is most
            nearly orthogonal is taken, and in one dimension a line through zero. False: the line (1 - w) a + w b.

    Raises:
        ValueError: for codes of different shapes or that are not floating point, or weights that are not (k,).
    """
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(f"a and b must be codes of one shape (b, *d), got {tuple(a.shape)} and {tuple(b.shape)}")
    if not (a.is_floating_point() and b.is_floating_point()):
        raise ValueError(f"codes must be floating point, got {a.dtype} and {b.dtype}; encode gives such, or write a.float()")
    w = torch.as_tensor(weights, dtype=torch.float64, device=a.device)
    if w.ndim != 1:
        raise ValueError(f"weights must be numbers in one dimension (k,), got shape {tuple(w.shape)}; write [0.5] for one")
    w, x, y = w[:, None, None], a.flatten(1).double(), b.flatten(1).double()
    if not spherical:
        return ((1 - w) * x + w * y).to(a.dtype).reshape(-1, *a.shape)
    lengths = x.norm(dim=1, keepdim=True), y.norm(dim=1, keepdim=True)
    u, v = (torch.nn.functional.normalize(z, dim=1) for z in (x, y))
    cos = (u * v).sum(1, keepdim=True)
    across = v - cos * u
    sin = across.norm(dim=1, keepdim=True)
    axis = torch.zeros_like(u).scatter_(1, u.abs().argmin(1, keepdim=True), 1.0)
    free = axis - (axis * u).sum(1, keepdim=True) * u
    across = torch.nn.functional.normalize(torch.where((sin < _PARALLEL) & (cos < 0), free, across), dim=1, eps=_PARALLEL)
    angle = torch.atan2(sin, cos)
    turned = (w * angle).cos() * u + (w * angle).sin() * across
    straight = (lengths[0] == 0) | (lengths[1] == 0)  # the zero code has no direction
    z = torch.where(straight, (1 - w) * x + w * y, ((1 - w) * lengths[0] + w * lengths[1]) * turned)
    return z.to(a.dtype).reshape(-1, *a.shape)


def _ends(denoiser: Denoiser, x: Tensor, t_min: float | None) -> tuple[float, float]:
    """The times between which the flow is followed, checked."""
    check_data(x)
    return check_start(denoiser.sde, x, t_min), denoiser.sde.t_max


@torch.no_grad()
def _flow(
    denoiser: Denoiser, x: Tensor, start: float, end: float, rtol: float | None, atol: float | None, cond: Any, solver: AdaptiveODE | None
) -> Tensor:
    if solver is not None and (rtol, atol) != (None, None):
        raise ValueError(f"{solver} has tolerances of its own, got rtol={rtol} and atol={atol} beside it; leave them out")
    if solver is None:
        solver = AdaptiveODE(rtol=TOLERANCE if rtol is None else rtol, atol=TOLERANCE if atol is None else atol)
    (step,) = solver.solve(denoiser, x, torch.tensor([start, end], dtype=torch.float64), Replay([]), cond)
    return step.x
