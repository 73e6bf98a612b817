"""A predictor moves from one noise level to the next, a corrector repairs the law there (Song et al. 2021, arXiv 2011.13456)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.noise import Noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.solvers.base import Move, Solver, Step
from sde_diffusion.solvers.correctors import Corrector
from sde_diffusion.solvers.first_order import ReverseDiffusion
from sde_diffusion.solvers.langevin import Langevin
from sde_diffusion.solvers.tableau import Tableau


@dataclasses.dataclass(frozen=True)
class PredictorCorrector(Solver):
    """A solver's step to s, then a corrector's moves at s (Song et al. 2021, algorithm 1).

    Args:
        predictor: any solver that is a table.
        corrector: `Langevin` or another corrector.
        first: "predictor" as in the paper, or "corrector" as in its code, which corrects at t before it steps to s.

    Raises:
        ValueError: for another `first`, or if one of the two is something else.
    """

    predictor: Solver = dataclasses.field(default_factory=ReverseDiffusion)
    corrector: Corrector = dataclasses.field(default_factory=Langevin)
    first: str = "predictor"
    order: ClassVar[int] = 0
    default_steps: ClassVar[int] = 500

    def __post_init__(self) -> None:
        if not isinstance(self.predictor, Solver) or not isinstance(self.corrector, Corrector):
            raise ValueError(
                f"PredictorCorrector takes a solver and a corrector, such as PredictorCorrector(DDIM(), Langevin(snr=0.16)), "
                f"got {self.predictor!r} and {self.corrector!r}; swap them?"
            )
        if self.first not in ("predictor", "corrector"):
            raise ValueError(f"first must be 'predictor' or 'corrector', got {self.first!r}")

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        raise ValueError(f"{self} runs its corrector between rows and has no table; predictor.tableau is its predictor's")

    def solve(
        self, denoiser: Denoiser, x: Tensor, grid: Tensor, noise: Noise, cond: Any = None, corrector: Move | None = None
    ) -> Iterator[Step]:
        times = grid[1:] if self.first == "predictor" else grid[:-1]
        correct = self.corrector.corrector(denoiser, x, times, noise, cond)
        calls = 0
        if self.first == "corrector":
            x, calls = correct(x, float(grid[0]))

        def move(x: Tensor, t: float) -> tuple[Tensor, int]:
            x, calls = correct(x, t)
            if corrector is None:
                return x, calls
            x, more = corrector(x, t)
            return x, calls + more

        for step in self.predictor.solve(denoiser, x, grid, noise, cond, move):
            yield step._replace(nfe=step.nfe + calls)
