"""Solvers made of solvers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.noise import Noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.solvers.base import Solver, Step, run
from sde_diffusion.solvers.grids import Grid
from sde_diffusion.solvers.tableau import Tableau


@dataclasses.dataclass(frozen=True)
class FinalDenoise(Solver):
    """Runs another solver and returns E[x_0 | x_s] of the state at which it ends: one more call, no noise of t_min left (Tweedie).

    Args:
        inner: the solver.
    """

    inner: Solver

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.inner.order

    @property
    def default_steps(self) -> int:  # type: ignore[override]
        return self.inner.default_steps

    @property
    def default_grid(self) -> Grid:  # type: ignore[override]
        return self.inner.default_grid

    @property
    def ends_at_zero(self) -> bool:  # type: ignore[override]
        return False

    def tableau(self, sde: AffineSDE, grid: Tensor) -> Tableau:
        return Tableau.concatenate([self.inner.tableau(sde, grid), self._last_row(grid)])

    def solve(self, denoiser: Denoiser, x: Tensor, grid: Tensor, noise: Noise, cond: Any = None) -> Iterator[Step]:
        step = None
        for step in self.inner.solve(denoiser, x, grid, noise, cond):
            yield step
        assert step is not None
        for last in run(self._last_row(grid), denoiser, step.x, noise, cond):
            yield last._replace(i=step.i + 1, nfe=step.nfe + last.nfe, rejected=step.rejected)

    @staticmethod
    def _last_row(grid: Tensor) -> Tableau:
        one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        return Tableau(t=grid[-1:], x=zero, base=zero, x0=one[:, None], noise=zero, ends=zero)
