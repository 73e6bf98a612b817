"""Runge-Kutta solvers of the probability-flow ODE.

In y = x/alpha and rho = sigma/alpha the flow is the same for every affine process,

    dy/d rho = (y - x0_hat)/rho                                                                  (1)

and in t it is dx/dt = (f + k) x - k alpha x0_hat, k = g^2/(2 sigma^2).                          (2)
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from sde_diffusion.sdes import AffineSDE
from sde_diffusion.solvers.base import Solver
from sde_diffusion.solvers.grids import Grid, karras
from sde_diffusion.solvers.tableau import Tableau


@dataclasses.dataclass(frozen=True)
class Heun(Solver):
    """Heun's method: an Euler step, then the average of the slopes at both ends; two calls per step.

    A step that ends where sigma = 0 is the Euler step alone, as in Karras et al. 2022, algorithm 1.

    Args:
        form: "sigma", equation (1), the default, or "t", equation (2).

    Raises:
        ValueError: for another form.
    """

    form: str = "sigma"
    order: ClassVar[int] = 2
    default_steps: ClassVar[int] = 18
    default_grid: ClassVar[Grid] = karras

    def __post_init__(self) -> None:
        if self.form not in ("sigma", "t"):
            raise ValueError(f"form must be 'sigma' or 't', got {self.form!r}")

    def tableau(self, sde: AffineSDE, grid: Tensor) -> Tableau:
        t, s = grid[:-1], grid[1:]
        scale = sde.alpha(s) / sde.alpha(t) if self.form == "sigma" else torch.ones_like(t)
        zero, nan = torch.zeros_like(t), torch.full_like(t, torch.nan)
        x_t, x0_t = self._slope(sde, t, t, s)
        euler = Tableau(t=t, x=scale + x_t, base=zero, x0=torch.stack([x0_t, zero], 1), noise=zero, ends=nan)
        full = int((sde.sigma(s) > 0).sum())
        last = dataclasses.replace(euler[full:], ends=s[full:])
        t, s, scale, x_t, x0_t, zero = (a[:full] for a in (t, s, scale, x_t, x0_t, zero))
        x_s, x0_s = self._slope(sde, s, t, s)
        average = Tableau(t=s, x=x_s / 2, base=scale + x_t / 2, x0=torch.stack([x0_s, x0_t], 1) / 2, noise=zero, ends=s)
        return Tableau.concatenate([Tableau.interleave([euler[:full], average]), last])

    def _slope(self, sde: AffineSDE, u: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of (x_u, x0_hat_u) in the slope at time u times the step from t to s, in units of x_s."""
        if self.form == "t":
            k = 0.5 * (sde.g(u) / sde.sigma(u)) ** 2
            return (s - t) * (sde.f(u) + k), -(s - t) * k * sde.alpha(u)
        h = sde.alpha(s) * (sde.sigma(s) / sde.alpha(s) - sde.sigma(t) / sde.alpha(t))
        return h / sde.sigma(u), -h * sde.alpha(u) / sde.sigma(u)
