"""Solvers are tables of numbers, and one loop runs them all.

Euler-Maruyama, DDPM's ancestral sampler, DDIM, Heun: each turns (SDE, time grid) into a `Tableau`, computed once in float64; at run time a
row is one network call and one linear combination. What is not linear has its own `solve`, or is a corrector that runs between the rows.
"""

from __future__ import annotations

import abc
import collections
import functools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.denoisers.base import Prediction
from sde_diffusion.expressions import short
from sde_diffusion.noise import Noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.solvers.grids import Grid, uniform
from sde_diffusion.solvers.tableau import Tableau


class Step(NamedTuple):
    """What a sampler has reached.

    Args:
        i: number of the step, from 1.
        t: the time reached.
        x: the state there, (b, *d).
        nfe: denoiser calls so far.
        rejected: rejected steps so far per sample, (b,), of an adaptive solver; else None.
        latest: the latest prediction, the state it was made at and what its `raw` returned, if there is one.
        evaluations: network evaluations so far per sample, (b,), where samples leave the batch when they have arrived; else None.
    """

    i: int
    t: float
    x: Tensor
    nfe: int
    rejected: Tensor | None = None
    latest: tuple[Prediction, Tensor, Tensor] | None = None
    evaluations: Tensor | None = None

    @property
    def x0_hat(self) -> Tensor | None:
        """The latest prediction, (b, *d); None where a solver keeps none."""
        if self.latest is None:
            return None
        prediction, x, raw = self.latest
        return prediction.finish(x, raw)


class Solver(abc.ABC):
    """How to get from noise to data; final subclasses are frozen dataclasses."""

    order: ClassVar[int]
    """Nominal order, that of the method's name."""
    default_steps: ClassVar[int]
    default_grid: ClassVar[Grid] = uniform
    ends_at_zero: ClassVar[bool] = True
    """Whether a step may end where sigma = 0."""

    def __str__(self) -> str:
        return short(self)

    @property
    def weak_order(self) -> int:
        """Weak order of convergence in the number of steps, claimed; a test measures it. 0: none is claimed."""
        return self.order

    @property
    def nfe(self) -> int | None:
        """Network calls of a solver that is a single table, on times of its own; None for every other."""
        return None

    def tableau(self, sde: AffineSDE, grid: Tensor) -> Tableau:
        """The table for the decreasing float64 times `grid` (n + 1,).

        Raises:
            ValueError: if a weight is not finite, since the solver divides by a sigma or alpha that is 0 at a time of the grid; or if the
                solver has no table.
        """
        if not isinstance(sde, AffineSDE):
            cure = "integrate sde.reverse(...) with torchsde.sdeint"
            raise ValueError(f"{self} is a table for processes with drift f(t) x, got {sde!r}; {cure}")
        return self.rows(sde, grid[:-1], grid[1:])

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        """The table for the steps from t_i to s_i, (n,) each; a solver of solvers may step elsewhere than to t_{i+1} and come back."""
        raise ValueError(f"{self} has no table: it decides while it runs")

    def solve(
        self, denoiser: Denoiser, x: Tensor, grid: Tensor, noise: Noise, cond: Any = None, corrector: Move | None = None
    ) -> Iterator[Step]:
        """Runs from x at grid[0] to grid[-1] and yields what each step reaches; `corrector` acts wherever one ends. Differentiable."""
        return run(_tableau(self, denoiser.sde, tuple(grid.tolist())), denoiser, x, noise, cond, corrector)


@functools.lru_cache(maxsize=64)  # 0.3 ms of small operations, as much as the steps themselves on a small network
def _tableau(solver: Solver, sde: AffineSDE, times: tuple[float, ...]) -> Tableau:
    return solver.tableau(sde, torch.tensor(times, dtype=torch.float64))


Move = Callable[[Tensor, float], tuple[Tensor, int]]
"""(x, t) -> (x, denoiser calls): moves x at fixed t."""

_ROUNDING = 1e-13  # px + px0 skip is 0 for a network that predicts what is remembered, up to rounding


def run(tableau: Tableau, denoiser: Denoiser, x: Tensor, noise: Noise, cond: Any = None, corrector: Move | None = None) -> Iterator[Step]:
    """The loop over a table's rows; `corrector` is called wherever a step ends. Where others own the loop, interop/diffusers/walk.py walks.

    With x0_hat = skip x + out F the prediction is p = a x + b F; what is kept is p/b and b, so that a network that predicts what its solver
    remembers costs no operation beside its own.
    """
    predictions = iter(denoiser.at(tableau.calls, x))
    latest: collections.deque[tuple[Tensor, float]] = collections.deque(maxlen=max(tableau.p.shape[1], 1))
    nfe, i, newest = 0, 0, None
    for p_x, p_x0, wx, wp, wnoise, end, reused in tableau.rows:
        if p_x0:
            prediction = next(predictions)
            raw, nfe = prediction.raw(x, cond), nfe + 1
            newest = prediction, x, raw
            a, b = p_x + p_x0 * prediction.skip, p_x0 * prediction.out
            if abs(a) <= _ROUNDING * abs(p_x):
                latest.appendleft((raw, b))
            elif reused:
                latest.appendleft((torch.add(raw, x, alpha=a / b), b))
            else:  # p is never formed: two operations fewer
                latest.appendleft((raw, b))
                wx += wp[0] * a
        elif p_x:
            latest.appendleft((x, p_x))
        new = x * wx
        for weight, (p, b) in zip(wp, latest, strict=False):
            if weight:
                new.add_(p, alpha=weight * b)
        if wnoise:
            new.add_(noise(x), alpha=wnoise)
        x = new
        if end is not None:
            if corrector is not None:
                x, calls = corrector(x, end)
                nfe += calls
            i += 1
            yield Step(i, end, x, nfe, latest=newest)
