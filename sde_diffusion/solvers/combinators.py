"""Solvers made of solvers: maps from table to table, and what runs between the rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.expressions import plain_floats
from sde_diffusion.noise import Noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_positive
from sde_diffusion.solvers.base import Move, Solver, Step, run
from sde_diffusion.solvers.first_order import check_eta
from sde_diffusion.solvers.grids import Grid
from sde_diffusion.solvers.runge_kutta import Heun
from sde_diffusion.solvers.tableau import Tableau

_ROUNDING = 1e-12  # of times, and of sigma/alpha relative to itself


class Combinator(Solver):
    """A solver that changes another one's table."""

    inner: Solver

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.inner.order

    @property
    def weak_order(self) -> int:
        return self.inner.weak_order

    @property
    def default_steps(self) -> int:  # type: ignore[override]
        return self.inner.default_steps

    @property
    def default_grid(self) -> Grid:  # type: ignore[override]
        return self.inner.default_grid

    @property
    def ends_at_zero(self) -> bool:  # type: ignore[override]
        return self.inner.ends_at_zero

    def __post_init__(self) -> None:
        plain_floats(self)
        if not isinstance(self.inner, Solver):
            raise ValueError(f"{type(self).__name__} takes a solver, such as {type(self).__name__}(Heun()), got {self.inner!r}")


@dataclasses.dataclass(frozen=True)
class FinalDenoise(Combinator):
    """Runs another solver and returns E[x_0 | x_s] of the state at which it ends: one more call, no noise of t_min left (Tweedie).

    Args:
        inner: the solver.
    """

    inner: Solver

    @property
    def ends_at_zero(self) -> bool:  # type: ignore[override]
        return False

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        return Tableau.concatenate([self.inner.rows(sde, t, s), self._last_row(s)])

    def solve(
        self, denoiser: Denoiser, x: Tensor, grid: Tensor, noise: Noise, cond: Any = None, corrector: Move | None = None
    ) -> Iterator[Step]:
        step = None
        for step in self.inner.solve(denoiser, x, grid, noise, cond, corrector):
            yield step
        assert step is not None
        for last in run(self._last_row(grid), denoiser, step.x, noise, cond):
            evaluations = None if step.evaluations is None else step.evaluations + 1
            yield last._replace(i=step.i + 1, nfe=step.nfe + last.nfe, rejected=step.rejected, evaluations=evaluations)

    @staticmethod
    def _last_row(s: Tensor) -> Tableau:
        one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        return Tableau(t=s[-1:], x=zero, p=one[:, None], ends=zero)


@dataclasses.dataclass(frozen=True)
class Churn(Combinator):
    """Adds noise before each step and steps from the higher level (Karras et al. 2022, arXiv 2206.00364, algorithm 2).

    With rho = sigma/alpha and gamma = min(s_churn/n, sqrt(2) - 1) where s_min <= rho <= s_max, else 0, and never beyond t_max,

        rho_hat = (1 + gamma) rho,    x_hat/alpha_hat = x/alpha + s_noise sqrt(rho_hat^2 - rho^2) z

    The signal is rescaled with the noise, so with s_noise = 1 the marginals are kept for every process.

    Args:
        inner: the solver, in the paper Heun.
        s_churn: amount of noise over all n steps, >= 0.
        s_min: least rho at which noise is added.
        s_max: largest.
        s_noise: standard deviation of the noise, > 0; slightly more than 1 counteracts a network that removes too much.
    """

    inner: Solver = dataclasses.field(default_factory=Heun)
    s_churn: float = 40.0
    s_min: float = 0.05
    s_max: float = 50.0
    s_noise: float = 1.003

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(s_noise=self.s_noise)
        if not (self.s_churn >= 0 and math.isfinite(self.s_churn)) or not 0 <= self.s_min <= self.s_max:
            raise ValueError(f"Churn needs s_churn >= 0 and 0 <= s_min <= s_max, got {self.s_churn}, {self.s_min} and {self.s_max}")

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        rho = sde.sigma(t) / sde.alpha(t)
        churned = (rho >= self.s_min) & (rho <= self.s_max)
        most = (sde.sigma(sde.t_max) / sde.alpha(sde.t_max) / rho - 1).clamp(min=0)
        gamma = torch.minimum(churned.to(rho) * min(self.s_churn / len(t), 2**0.5 - 1), torch.where(most > _ROUNDING, most, 0.0))
        lifted = gamma > 0
        # A lift of 0 must leave t alone: the root of a rounding error is noise.
        t_hat = torch.where(lifted, sde.t_of_log_snr(-((1 + gamma) * rho).log()), t)
        scale = sde.alpha(t_hat) / sde.alpha(t)
        noise = sde.alpha(t_hat) * self.s_noise * rho * (gamma * (2 + gamma)).sqrt()
        table = self.inner.rows(sde, t_hat, s)
        last = table.end_rows()
        first = torch.cat([torch.zeros(1, dtype=last.dtype), last[:-1] + 1])
        nan = torch.full((1,), torch.nan, dtype=torch.float64)
        rows = []
        for i in range(len(t)):
            if lifted[i]:
                rows.append(Tableau(t=nan, x=scale[i : i + 1], p=torch.zeros(1, 1, dtype=torch.float64), noise=noise[i : i + 1], ends=nan))
            rows.append(table[int(first[i]) : int(last[i]) + 1])
        return Tableau.concatenate(rows)


@dataclasses.dataclass(frozen=True)
class Renoise(Combinator):
    """Steps below the target and adds the noise that is missing: k-diffusion's "ancestral" family.

    With rho = sigma/alpha, x_s/alpha_s = x_down/alpha_down + rho_up z,

        rho_up = min(rho_s, eta rho_s sqrt(1 - rho_s^2/rho_t^2)),    rho_down = sqrt(rho_s^2 - rho_up^2)

    `Renoise(Euler())` is `DDIM(eta)`, so `Ancestral` for eta = 1; around `Midpoint()`, "dpm_2_ancestral"; around `Midpoint("x0")`,
    "dpmpp_2s_ancestral". The noise is exact, so the order is that of the inner solver. A step in which a stage would lie below t_min, as
    in the last of `DPMSolver(3)`, adds no noise.

    Args:
        inner: a solver without noise of its own.
        eta: 0 (inner alone) to 1 (the noise of the ancestral sampler) or larger.
    """

    inner: Solver
    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_eta(self.eta)

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        rho_t, rho_s = (sde.sigma(u) / sde.alpha(u) for u in (t, s))
        up = torch.minimum(rho_s, self.eta * rho_s * (1 - (rho_s / rho_t) ** 2).sqrt())
        table, t_down = self._down(sde, t, s, up)
        below = (table.t < sde.t_min - _ROUNDING).nonzero()[:, 0]
        if len(below):
            up[torch.searchsorted(table.end_rows(), below)] = 0
            table, t_down = self._down(sde, t, s, up)
        last = table.end_rows()
        scale = torch.ones(len(table), dtype=torch.float64)
        scale[last] = sde.alpha(s) / sde.alpha(t_down)
        noise, ends = table.noise * scale, table.ends.clone()
        noise[last] = torch.hypot(noise[last], sde.alpha(s) * up)
        ends[last] = s
        return dataclasses.replace(table, x=table.x * scale, p=table.p * scale[:, None], noise=noise, ends=ends)

    def _down(self, sde: AffineSDE, t: Tensor, s: Tensor, up: Tensor) -> tuple[Tableau, Tensor]:
        """The inner solver's steps to below s, and the times where they end."""
        rho_s = sde.sigma(s) / sde.alpha(s)
        t_down = torch.where(up > 0, sde.t_of_log_snr(-0.5 * (rho_s**2 - up**2).log()), s)
        return self.inner.rows(sde, t, t_down), t_down


def _prior_gain(sde: AffineSDE, t: Tensor, std: float) -> Tensor:
    """x0_hat/x at time t for data N(0, std^2 I)."""
    return sde.alpha(t) * std**2 / ((sde.alpha(t) * std) ** 2 + sde.sigma(t) ** 2)


@dataclasses.dataclass(frozen=True)
class AnalyticFirstStep(Combinator):
    """Replaces the first call by the exact x0_hat of Gaussian data, which far from the data all data resemble: one call fewer.

        x0_hat = alpha std^2 x/(alpha^2 std^2 + sigma^2)

    The step's error is then that of the data's likeness to N(0, std^2 I) at t_max, so the order is 1.

    Args:
        inner: the solver.
        std: standard deviation of the data, whose mean is taken for 0, > 0.
    """

    inner: Solver
    std: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(std=self.std)

    @property
    def weak_order(self) -> int:
        return min(self.inner.weak_order, 1)

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        table = self.inner.rows(sde, t, s)
        if table.p_x0[0] == 0:
            raise ValueError(f"{self.inner} makes no call in its first row that could be replaced; put AnalyticFirstStep inside")
        p_x, p_x0 = table.p_x.clone(), table.p_x0.clone()
        p_x[0] += p_x0[0] * _prior_gain(sde, table.t[0], self.std)
        p_x0[0] = 0
        return dataclasses.replace(table, p_x=p_x, p_x0=p_x0)


@dataclasses.dataclass(frozen=True)
class Truncate(Combinator):
    """Begins at t_start: the part of the grid above it is one move along the exact flow of Gaussian data, without a call.

        x_start = x_1 sqrt(alpha_start^2 std^2 + sigma_start^2)/sqrt(alpha_1^2 std^2 + sigma_1^2)

    Args:
        inner: the solver.
        t_start: where it begins, in (0, 1).
        std: standard deviation of the data, whose mean is taken for 0, > 0.
    """

    inner: Solver
    t_start: float
    std: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(std=self.std)
        if not 0 < self.t_start < 1:
            raise ValueError(f"t_start must lie between 0 (data) and 1 (noise), got {self.t_start}")

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        left = s < self.t_start
        if not left.any():
            raise ValueError(f"t_start={self.t_start} leaves no step of a grid that ends at t={s[-1].item():g}; begin earlier")
        if t[0] <= self.t_start:
            return self.inner.rows(sde, t, s)
        start = t.new_tensor([self.t_start])
        size = (((sde.alpha(u) * self.std) ** 2 + sde.sigma(u) ** 2).sqrt() for u in (t[:1], start))
        before, after = size
        jump = Tableau(t=torch.full_like(start, torch.nan), x=after / before, p=torch.zeros_like(start)[:, None], ends=start)
        t, s = torch.cat([start, t[left][1:]]), s[left]
        return Tableau.concatenate([jump, self.inner.rows(sde, t, s)])


Projection = Callable[[Tensor, float, Noise], Tensor]
"""(x, t, noise) -> x: the state at time t, moved to where it has to be."""


@dataclasses.dataclass(frozen=True)
class Projected(Combinator):
    """Projects the state after each step, say onto measurements or into a box.

    Args:
        inner: a solver that is a table, or a `PredictorCorrector`; it is projected after the corrector.
        project: a function (x, t, noise) -> x of the states (b, *d) reached at time t; `noise(x)` draws standard normal numbers.
    """

    inner: Solver
    project: Projection

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.project):
            raise ValueError(f"project must be a function (x, t, noise) -> x, got {self.project!r}")

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        raise ValueError(f"{self} projects between rows and has no table; inner.tableau is its solver's")

    def solve(
        self, denoiser: Denoiser, x: Tensor, grid: Tensor, noise: Noise, cond: Any = None, corrector: Move | None = None
    ) -> Iterator[Step]:
        def move(x: Tensor, t: float) -> tuple[Tensor, int]:
            x, calls = (x, 0) if corrector is None else corrector(x, t)
            return self.project(x, t, noise), calls

        yield from self.inner.solve(denoiser, x, grid, noise, cond, move)
