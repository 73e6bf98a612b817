"""The affine process of any two coefficient functions f(t), g(t).

    log alpha = int_0^t f,    sigma^2 = alpha^2 r,    r = int_0^t g^2/alpha^2                    (1)

Both integrals run on panels of 16 Gauss-Legendre points, and the panels are doubled until nothing changes by 1e-11. The result is then
checked against the equation that it must solve, d sigma^2/dt = 2 f sigma^2 + g^2.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sde_diffusion.expressions import plain_floats
from sde_diffusion.sdes.base import AffineSDE, check_times
from sde_diffusion.shapes import Time, as_time

Coefficient = Callable[[Tensor], Tensor]

_CONVERGED = 1e-11  # change of log alpha and log r when the panels are doubled
_MAX_PANELS = 4096
_ODE_TOLERANCE = 1e-6  # of the check by fourth-order differences, whose own error is about 1e-9
_BISECTIONS = 60


@dataclasses.dataclass(frozen=True)
class CoefficientSDE(AffineSDE):
    """dx = f(t) x dt + g(t) dw with its kernel (1) integrated numerically; made by `AffineSDE.from_coefficients`."""

    drift_coefficient: Coefficient
    diffusion_coefficient: Coefficient
    t_min: float = dataclasses.field(default=1e-3, kw_only=True)
    t_max: float = dataclasses.field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        plain_floats(self)
        check_times(self.t_min, self.t_max)
        probe = torch.linspace(self.t_min, self.t_max, 65, dtype=torch.float64)
        for name, coefficient in (("f", self.f), ("g", self.g)):
            values = coefficient(probe)
            if not values.isfinite().all():
                bad = probe[~values.isfinite()][0].item()
                raise ValueError(f"{name}(t) is {coefficient(bad).item()} at t={bad:.4g}; choose t_min and t_max inside its domain")
        _ = self._panels
        self._check(probe[1:-1])

    @functools.cached_property
    def _panels(self) -> tuple[Tensor, Tensor]:
        """log alpha and r at the panel edges, (p + 1,) each."""
        previous: tuple[Tensor, Tensor] | None = None
        panels = 16
        while panels <= _MAX_PANELS:
            edges = torch.linspace(0, self.t_max, panels + 1, dtype=torch.float64)
            step = edges[1:] - edges[:-1]
            zero = torch.zeros(1, dtype=torch.float64)
            log_alpha = torch.cat([zero, self._integrate(self.f, edges[:-1], step).cumsum(0)])

            def rate(t: Tensor, log_alpha: Tensor = log_alpha, edges: Tensor = edges, panels: int = panels) -> Tensor:
                return self.g(t) ** 2 * torch.exp(-2 * self._log_alpha(t, log_alpha, edges, panels))

            r = torch.cat([zero, self._integrate(rate, edges[:-1], step).cumsum(0)])
            for name, values in (("f", log_alpha), ("g", r)):
                if not values.isfinite().all():
                    bad = edges[~values.isfinite()][0].item()
                    raise ValueError(f"{name} is not finite somewhere before t={bad:.4g}; the kernel is integrated from t=0")
            if not (r[1:] > 0).all():
                end = edges[1:][r[1:] <= 0][-1].item()
                raise ValueError(f"g is 0 from t=0 to t={end:.4g}, and sigma with it; there is nothing to denoise")
            if previous is not None:
                change_alpha = (log_alpha[::2] - previous[0]).abs().max()
                change_r = (r[2::2] / previous[1][1:] - 1).abs().max()
                if torch.maximum(change_alpha, change_r) < _CONVERGED:
                    return log_alpha, r
            previous, panels = (log_alpha, r), 2 * panels
        raise ValueError(
            f"the kernel of f, g did not converge to {_CONVERGED:g} on {_MAX_PANELS} panels of [0, {self.t_max}]; "
            "f and g must be smooth there (a singularity at t=1 is cured by a smaller t_max)"
        )

    @staticmethod
    def _integrate(function: Coefficient, start: Tensor, step: Tensor) -> Tensor:
        nodes, weights = _gauss_legendre()
        return (function(start[..., None] + step[..., None] * nodes) @ weights) * step

    def _log_alpha(self, t: Tensor, log_alpha: Tensor, edges: Tensor, panels: int) -> Tensor:
        i = (t.detach() * (panels / self.t_max)).long().clamp(0, panels - 1)
        return log_alpha[i] + self._integrate(self.f, edges[i], t - edges[i])

    def _moments(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """log alpha and r at float64 times t."""
        log_alpha, r = self._panels
        panels = len(r) - 1
        edges = torch.linspace(0, self.t_max, panels + 1, dtype=torch.float64)
        i = (t.detach() * (panels / self.t_max)).long().clamp(0, panels - 1)

        def rate(u: Tensor) -> Tensor:
            return self.g(u) ** 2 * torch.exp(-2 * self._log_alpha(u, log_alpha, edges, panels))

        return self._log_alpha(t, log_alpha, edges, panels), r[i] + self._integrate(rate, edges[i], t - edges[i])

    def _check(self, t: Tensor) -> None:
        h = 1e-4 * t
        a, b, c, d = (self.sigma(t + k * h) ** 2 for k in (-2, -1, 1, 2))
        left, variance = (a - 8 * b + 8 * c - d) / (12 * h), self.sigma(t) ** 2
        right = 2 * self.f(t) * variance + self.g(t) ** 2
        error = ((left - right).abs() / (right.abs() + self.g(t) ** 2 + 1e-300)).max().item()
        if not error < _ODE_TOLERANCE:
            raise ValueError(f"d var/dt and 2 f var + g^2 differ by {error:.2g} relative; f and g must be smooth functions of t")

    def alpha(self, t: Time) -> Tensor:
        t = as_time(t)
        return torch.exp(self._moments(t.double().cpu())[0]).to(t)

    def sigma(self, t: Time) -> Tensor:
        t = as_time(t)
        log_alpha, r = self._moments(t.double().cpu())
        return (torch.exp(log_alpha) * torch.sqrt(r)).to(t)

    def f(self, t: Time) -> Tensor:
        return _evaluate("f", self.drift_coefficient, as_time(t))

    def g(self, t: Time) -> Tensor:
        return _evaluate("g", self.diffusion_coefficient, as_time(t))

    def t_of_log_snr(self, lam: Time) -> Tensor:
        lam = as_time(lam)
        target = torch.exp(-2 * lam.double().cpu())
        low, high = torch.zeros_like(target), torch.full_like(target, self.t_max)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            above = self._moments(middle)[1] > target
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (0.5 * (low + high)).to(lam)


def _evaluate(name: str, coefficient: Coefficient, t: Tensor) -> Tensor:
    value = torch.as_tensor(coefficient(t), dtype=t.dtype, device=t.device)
    if value.shape not in {(), t.shape}:
        raise ValueError(f"{name}(t) must be a number or have the shape of t, got {tuple(value.shape)} for {tuple(t.shape)}")
    return value.expand(t.shape)


@functools.cache
def _gauss_legendre() -> tuple[Tensor, Tensor]:
    """16 nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    return torch.from_numpy(0.5 * (nodes + 1)), torch.from_numpy(0.5 * weights)
