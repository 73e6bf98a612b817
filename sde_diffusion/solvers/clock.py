"""The variables in which the probability-flow ODE is nearly a straight line.

With r = sigma/(c alpha), c the standard deviation of the data, every affine process has the same flow up to the scale n and the clock p
of its state w = x/n:

    dw/dp = a w + b x0_hat                                                                       (1)

    form       p              n                            a            b
    angle      atan r         sqrt(alpha^2 + sigma^2/c^2)  1/tan p      -1/sin p                 (2)
    velocity   r/(1 + r)      alpha + sigma/c              1/p          -1/p                     (3)
    log_snr    log r          sqrt(alpha^2 + sigma^2/c^2)  cos^2        -cos                     (4)
    t          t              1                            f - b/alpha  -g^2 alpha/(2 sigma^2)   (5)

with cos^2 = 1/(1 + r^2). They follow from x = alpha x0 + sigma eps and d(x/alpha) = eps d(sigma/alpha), eps = (x - alpha x0_hat)/sigma. In
(2), w = cos(p) x0 + sin(p) c eps and the slope is its derivative at fixed x0 and eps; in (3), w = (1 - p) x0 + p c eps, so that where the
prediction is constant the path is straight and a step of any length exact: the linear part of the flow is integrated exactly. (Taken out
by d(x/sigma) = x0_hat d(alpha/sigma) or d(x/alpha) = eps d(sigma/alpha) it leaves a clock that runs over four decades, and the steps of a
Runge-Kutta method were rejected half of the time.) In (2) to (4) w is x0 at the data's end and c eps at the noise's, so tolerances are in
units of the data throughout, and the same for VP and VE.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.denoisers.base import Levels
from sde_diffusion.sdes import AffineSDE


class Slope(NamedTuple):
    """What (1) is at given clocks: the levels, and n, a, b."""

    levels: Levels
    n: Tensor
    a: Tensor
    b: Tensor


@dataclasses.dataclass(frozen=True)
class Clock:
    """The clock of (2), (3) or (4) for a process.

    Args:
        sde: the process.
        c: standard deviation of the data.
        form: of which form.
    """

    sde: AffineSDE
    c: float
    form: str

    def __call__(self, t: Tensor) -> Tensor:
        """p at time t."""
        if self.form == "t":
            return t
        signal, noise = self.c * self.sde.alpha(t), self.sde.sigma(t)
        if self.form == "angle":
            return torch.atan2(noise, signal)
        return noise / (signal + noise) if self.form == "velocity" else (noise / signal).log()

    def scale(self, t: Tensor) -> Tensor:
        """n at time t."""
        if self.form == "t":
            return torch.ones_like(t)
        alpha, noise = self.sde.alpha(t), self.sde.sigma(t) / self.c
        return alpha + noise if self.form == "velocity" else torch.hypot(alpha, noise)

    def slope(self, p: Tensor, first: float, last: float, dtype: torch.dtype = torch.float64) -> Slope:
        """(1) at clocks p, in `dtype` what keeps its digits there, and times kept between `last` and `first` against rounding."""
        if self.form == "t":
            levels = Levels(self.sde.alpha(p), self.sde.sigma(p), self.sde.log_snr(p), lambda: p)
            b = -0.5 * (self.sde.g(p) / levels.sigma) ** 2
            return Slope(levels, torch.ones_like(p), self.sde.f(p) - b, b * levels.alpha)
        if self.form == "log_snr":
            r = torch.exp(p).to(dtype)
            cos = torch.rsqrt(1 + r**2)
            a, b = cos**2, -cos
        else:  # float64 up to here: next to the noise cos is a small difference
            angle = self.form == "angle"
            sin, cos = (torch.sin(p) if angle else p).to(dtype), (torch.cos(p) if angle else (1 - p).clamp_(min=2**-53)).to(dtype)
            r, b = sin / cos, -1 / sin
            a = cos / sin if angle else -b
        log_snr = (rho := r * self.c).log().neg_()
        alpha = self.sde.alpha_of_log_snr(log_snr)

        def time() -> Tensor:
            return self.sde.t_of_log_snr(log_snr.double()).clamp(min(first, last), max(first, last))

        return Slope(Levels(alpha, alpha * rho, log_snr, time), alpha / cos, a, b)  # n cos = alpha, and in (3) n (1 - p)


FORMS = ("angle", "velocity", "log_snr", "t")


class Slopes(NamedTuple):
    """dw/dp (1) at rows of clocks: of_w w + of_raw raw_i(into w, cond), the three (b, 1, ...) per row; `at` is where they are taken."""

    raw: list[Callable[[Tensor, Any], Tensor]]
    into: tuple[Tensor, ...]
    of_w: tuple[Tensor, ...]
    of_raw: tuple[Tensor, ...]
    at: Slope

    def __call__(self, i: int, w: Tensor, cond: Any, out: Tensor | None = None) -> Tensor:
        return self.sum(i, w, self.raw[i](w * self.into[i], cond), out)

    def sum(self, i: int, w: Tensor, raw: Tensor, out: Tensor | None = None) -> Tensor:
        """dw/dp from what raw_i returned."""
        return torch.mul(w, self.of_w[i], out=out).addcmul_(raw, self.of_raw[i])


def slopes_at(denoiser: Denoiser, at: Slope, like: Tensor) -> Slopes:
    """The slopes at clocks (r, b, 1, ...), the change of variables and the denoiser's own in one."""
    raw, into, skip, out = denoiser.at_each(at.levels, like)
    into = at.n if into is None else at.n * into
    of_w = at.a if skip is None else torch.addcmul(at.a, at.b * at.n, skip)
    of_raw = at.b if out is None else at.b * out
    into, of_w, of_raw = (v.to(like.dtype) for v in (into, of_w, of_raw))
    return Slopes(raw, into.unbind(), of_w.unbind(), of_raw.unbind(), at)
