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
    """

    i: int
    t: float
    x: Tensor
    nfe: int
    rejected: Tensor | None = None
    latest: tuple[Prediction, Tensor, Tensor] | None = None

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
    """Weak order of convergence in the number of steps, claimed; a test measures it. 0: none is claimed."""
    default_steps: ClassVar[int]
    default_grid: ClassVar[Grid] = uniform
    ends_at_zero: ClassVar[bool] = True
    """Whether a step may end where sigma = 0."""

    @abc.abstractmethod
    def tableau(self, sde: AffineSDE, grid: Tensor) -> Tableau:
        """The table for the decreasing float64 times `grid` (n + 1,).

        Raises:
            ValueError: if a weight is not finite, since the solver divides by a sigma or alpha that is 0 at a time of the grid.
        """

    def solve(self, denoiser: Denoiser, x: Tensor, grid: Tensor, noise: Noise, cond: Any = None) -> Iterator[Step]:
        """Runs from x at grid[0] to grid[-1] and yields what each step reaches. Differentiable."""
        return run(_tableau(self, denoiser.sde, tuple(grid.tolist())), denoiser, x, noise, cond)


@functools.lru_cache(maxsize=16)  # 0.3 ms of small operations, as much as the steps themselves on a small network
def _tableau(solver: Solver, sde: AffineSDE, times: tuple[float, ...]) -> Tableau:
    return solver.tableau(sde, torch.tensor(times, dtype=torch.float64))


Corrector = Callable[[Tensor, float], tuple[Tensor, int]]
"""(x, t) -> (x, denoiser calls): moves x at fixed t."""


def run(
    tableau: Tableau, denoiser: Denoiser, x: Tensor, noise: Noise, cond: Any = None, corrector: Corrector | None = None
) -> Iterator[Step]:
    """The loop over a table's rows, the only one; `corrector` is called wherever a step ends."""
    plan = zip(denoiser.at(tableau.calls, x), tableau.reused, strict=True)
    latest: collections.deque[Tensor] = collections.deque(maxlen=tableau.x0.shape[1])
    base, nfe, i, newest = x, 0, 0, None
    for evaluates, wx, wbase, wx0, wnoise, end in tableau.rows:
        if evaluates:
            prediction, reused = next(plan)
            raw, nfe = prediction.raw(x, cond), nfe + 1
            newest = prediction, x, raw
            if reused:
                latest.appendleft(prediction.finish(x, raw))
            else:  # x0_hat = skip x + out raw is never formed: two operations fewer
                latest.appendleft(raw)
                wx += wx0[0] * prediction.skip
                wx0 = (wx0[0] * prediction.out, *wx0[1:])
        new = x * wx
        if wbase:
            new.add_(base, alpha=wbase)
        for weight, x0_hat in zip(wx0, latest, strict=False):
            if weight:
                new.add_(x0_hat, alpha=weight)
        if wnoise:
            new.add_(noise(x), alpha=wnoise)
        x = new
        if end is not None:
            if corrector is not None:
                x, calls = corrector(x, end)
                nfe += calls
            i, base = i + 1, x
            yield Step(i, end, x, nfe, None, newest)
