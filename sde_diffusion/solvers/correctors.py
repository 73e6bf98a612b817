"""Correctors: moves that stay at one noise level and keep, or nearly keep, its law p_t.

A predictor's error and a wrong start are forgotten by a Markov chain with stationary law p_t; all it needs is the score of p_t. Lengths
are measured in units of sigma, so that one choice of options serves every level of every process.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.denoisers.base import Prediction
from sde_diffusion.noise import Noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.solvers.base import Move, Solver, Step
from sde_diffusion.solvers.tableau import Tableau


class Level(NamedTuple):
    """The law p_t at one time t: its scales, and its score by one denoiser call."""

    denoiser: Denoiser
    predict: Prediction
    t: float
    alpha: float
    sigma: float

    def score(self, x: Tensor, cond: Any) -> Tensor:
        """(alpha x0_hat - x)/sigma^2."""
        return (self.alpha * self.predict(x, cond) - x) / self.sigma**2


class Corrector(Solver):
    """Moves at one noise level, for `PredictorCorrector`.

    As a solver it moves at each time of the grid but the first, and only there (a corrector without predictor).
    """

    order: ClassVar[int] = 0
    default_steps: ClassVar[int] = 1000
    ends_at_zero: ClassVar[bool] = False

    @abc.abstractmethod
    def moves(self, level: Level, x: Tensor, noise: Noise, cond: Any) -> tuple[Tensor, int]:
        """All moves from the states x (b, *d) at a level with sigma > 0: the new states and the number of denoiser calls."""

    def corrector(self, denoiser: Denoiser, like: Tensor, times: Tensor, noise: Noise, cond: Any = None) -> Move:
        """A function (x, t) -> (x, denoiser calls) for the given times (n,); where sigma = 0 it does nothing."""
        sde = denoiser.sde
        noisy = times[sde.sigma(times) > 0]
        columns = noisy.tolist(), sde.alpha(noisy).tolist(), sde.sigma(noisy).tolist()
        levels = {t: Level(denoiser, p, t, alpha, sigma) for p, t, alpha, sigma in zip(denoiser.at(noisy, like), *columns, strict=True)}

        def correct(x: Tensor, t: float) -> tuple[Tensor, int]:
            return self.moves(levels[t], x, noise, cond) if t in levels else (x, 0)

        return correct

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        raise ValueError(f"{self} makes moves that are not rows of scalars and has no table; Langevin(norm='expected') has one")

    def solve(
        self, denoiser: Denoiser, x: Tensor, grid: Tensor, noise: Noise, cond: Any = None, corrector: Move | None = None
    ) -> Iterator[Step]:
        if corrector is not None:
            raise ValueError(f"{self} only corrects; use PredictorCorrector(predictor, {self}) to project after it")
        correct = self.corrector(denoiser, x, grid[1:], noise, cond)
        nfe = 0
        for i, t in enumerate(grid[1:].tolist(), start=1):
            x, calls = correct(x, t)
            nfe += calls
            yield Step(i, t, x, nfe)
