"""Langevin moves, which stay at one noise level, and what is built of them.

    x <- x + e score(x, t) + sqrt(2 e) z                                                         (1)

With step e; the literature's gamma is 2e (Roberts & Tweedie 1996). The stationary variance on N(0, 1) is 1/(1 - e/2): for a finite step
it is not exact. Song & Ermon 2019 (arXiv 1907.05600) run (1) down a ladder of noise levels; Song et al. 2021 (2011.13456) run it after
each step of another solver, as a corrector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.denoisers.base import Prediction
from sde_diffusion.expressions import plain_floats
from sde_diffusion.noise import Noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_count, check_positive
from sde_diffusion.shapes import expand
from sde_diffusion.solvers.base import Corrector, Solver, Step, run
from sde_diffusion.solvers.first_order import ReverseDiffusion
from sde_diffusion.solvers.tableau import Tableau


@dataclasses.dataclass(frozen=True)
class Langevin(Solver):
    """Langevin moves (1) whose step follows from a signal-to-noise ratio, e = 2 (snr |z|/|score|)^2 (Song et al. 2021, algorithms 4, 5).

    As a solver it moves at each time of the grid but the first, and only there (a corrector without predictor).

    Args:
        snr: ratio of the lengths of the score's move and the noise's, > 0.
        steps: moves per noise level.
        norm: how |z|/|score| is measured. "expected": sqrt(d) and sqrt(d)/sigma, so e = 2 (snr sigma)^2, which keeps samples independent;
            "sample": each sample's own |score|, sensible in high dimension; "batch": the paper's means over the batch, which make a
            sample depend on its companions.

    Raises:
        ValueError: for another norm, a snr or a number of steps that is not positive.
    """

    snr: float = 0.16
    steps: int = 1
    norm: str = "expected"
    order: ClassVar[int] = 0
    default_steps: ClassVar[int] = 1000
    ends_at_zero: ClassVar[bool] = False

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(snr=self.snr)
        check_count(steps=self.steps)
        if self.norm not in ("expected", "sample", "batch"):
            raise ValueError(f"norm must be 'expected', 'sample' or 'batch', got {self.norm!r}")

    def tableau(self, sde: AffineSDE, grid: Tensor) -> Tableau:
        if self.norm != "expected":
            raise ValueError(f"{self} measures norms while it runs and has no table; use norm='expected'")
        s = grid[1:]
        return langevin_rows(sde, s, 2 * (self.snr * sde.sigma(s)) ** 2, self.steps, torch.ones_like(s), s)

    def solve(self, denoiser: Denoiser, x: Tensor, grid: Tensor, noise: Noise, cond: Any = None) -> Iterator[Step]:
        correct = self.corrector(denoiser, x, grid[1:], noise, cond)
        nfe = 0
        for i, t in enumerate(grid[1:].tolist(), start=1):
            x, calls = correct(x, t)
            nfe += calls
            yield Step(i, t, x, nfe)

    def corrector(self, denoiser: Denoiser, like: Tensor, times: Tensor, noise: Noise, cond: Any = None) -> Corrector:
        """A function (x, t) -> (x, denoiser calls) for the given times (n,); where sigma = 0 it does nothing."""
        sde = denoiser.sde
        noisy = times[sde.sigma(times) > 0]
        scales = zip(denoiser.at(noisy, like), sde.alpha(noisy).tolist(), sde.sigma(noisy).tolist(), strict=True)
        prepared: dict[float, tuple[Prediction, float, float]] = dict(zip(noisy.tolist(), scales, strict=True))

        def correct(x: Tensor, t: float) -> tuple[Tensor, int]:
            if t not in prepared:
                return x, 0
            for _ in range(self.steps):
                x = self._move(x, *prepared[t], noise, cond)
            return x, self.steps

        return correct

    def _move(self, x: Tensor, predict: Prediction, alpha: float, sigma: float, noise: Noise, cond: Any) -> Tensor:
        raw, z = predict.raw(x, cond), noise(x)
        if self.norm == "expected":
            e = 2 * (self.snr * sigma) ** 2
            weight = e * alpha / sigma**2  # of x0_hat = skip x + out raw
            moved = (x * (1 - e / sigma**2 + weight * predict.skip)).add_(raw, alpha=weight * predict.out)
            return moved.add_(z, alpha=(2 * e) ** 0.5)
        score = (alpha * predict.finish(x, raw) - x) / sigma**2
        length = score.flatten(1).norm(dim=1)
        ratio = z.flatten(1).norm(dim=1).mean() / length.mean() if self.norm == "batch" else x[0].numel() ** 0.5 / length
        step = expand(2 * (self.snr * ratio) ** 2, x)
        return x + step * score + (2 * step).sqrt() * z


@dataclasses.dataclass(frozen=True)
class AnnealedLangevin(Solver):
    """Langevin moves (1) at every noise level from the largest down (Song & Ermon 2019, algorithm 1), then x0_hat at the end of a ladder.

    At each time of the grid but the last it makes `steps` moves of e = epsilon (sigma/sigma_L)^2, sigma_L the noise of the last level
    at which it moves, and hands the state to the next level unchanged; if the signal is scaled, all this happens in x/alpha. A grid that
    ends where sigma = 0 ends with the denoised state. The paper's step alpha_i is 2e; its code's `step_lr` is epsilon.

    Args:
        epsilon: step at the last level, > 0, in units of the data squared; the paper's code has 2e-5 for sigma_L = 0.01.
        steps: moves per level.
    """

    epsilon: float = 2e-5
    steps: int = 100
    order: ClassVar[int] = 0
    default_steps: ClassVar[int] = 10

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(epsilon=self.epsilon)
        check_count(steps=self.steps)

    def tableau(self, sde: AffineSDE, grid: Tensor) -> Tableau:
        t, s = grid[:-1], grid[1:]
        alpha, rho = sde.alpha(t), sde.sigma(t) / sde.alpha(t)
        rows = langevin_rows(sde, t, self.epsilon * (alpha * rho / rho[-1]) ** 2, self.steps, sde.alpha(s) / alpha, s)
        if sde.sigma(s[-1]) > 0:
            return rows
        one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        denoise = Tableau(t=t[-1:], x=zero, base=zero, x0=one[:, None] * sde.alpha(s[-1]), noise=zero, ends=s[-1:])
        rows.ends[-1] = torch.nan
        return Tableau.concatenate([rows, denoise])


def langevin_rows(sde: AffineSDE, t: Tensor, step: Tensor, moves: int, scale: Tensor, ends: Tensor) -> Tableau:
    """`moves` moves (1) of size `step` at each time t (n,), the last of them multiplied by `scale` and ending at `ends`."""
    sigma2 = sde.sigma(t) ** 2

    def rows(values: Tensor, last: Tensor) -> Tensor:
        table = values[:, None].repeat(1, moves)
        table[:, -1] = last
        return table.flatten()

    x, x0, noise = 1 - step / sigma2, step * sde.alpha(t) / sigma2, (2 * step).sqrt()
    # The state is handed on in x/alpha, so a scaled last row.
    return Tableau(
        t=rows(t, t),
        x=rows(x, x * scale),
        base=torch.zeros(len(t) * moves, dtype=torch.float64),
        x0=rows(x0, x0 * scale)[:, None],
        noise=rows(noise, noise * scale),
        ends=rows(torch.full_like(ends, torch.nan), ends),
    )


@dataclasses.dataclass(frozen=True)
class PredictorCorrector(Solver):
    """A solver's step to s, then Langevin moves at s (Song et al. 2021, algorithm 1).

    Args:
        predictor: any solver that is a table.
        corrector: the Langevin moves.
        first: "predictor" as in the paper, or "corrector" as in its code, which corrects at t before it steps to s.

    Raises:
        ValueError: for another `first`, or if one of the two is something else.
    """

    predictor: Solver = dataclasses.field(default_factory=ReverseDiffusion)
    corrector: Langevin = dataclasses.field(default_factory=Langevin)
    first: str = "predictor"
    order: ClassVar[int] = 0
    default_steps: ClassVar[int] = 500

    def __post_init__(self) -> None:
        if not isinstance(self.predictor, Solver) or not isinstance(self.corrector, Langevin):
            raise ValueError(
                f"PredictorCorrector takes a solver and Langevin moves, such as PredictorCorrector(DDIM(), Langevin(snr=0.16)), "
                f"got {self.predictor!r} and {self.corrector!r}; swap them?"
            )
        if self.first not in ("predictor", "corrector"):
            raise ValueError(f"first must be 'predictor' or 'corrector', got {self.first!r}")

    def tableau(self, sde: AffineSDE, grid: Tensor) -> Tableau:
        raise ValueError(f"{self} runs its corrector between rows and has no table; predictor.tableau is its predictor's")

    def solve(self, denoiser: Denoiser, x: Tensor, grid: Tensor, noise: Noise, cond: Any = None) -> Iterator[Step]:
        times = grid[1:] if self.first == "predictor" else grid[:-1]
        correct = self.corrector.corrector(denoiser, x, times, noise, cond)
        calls = 0
        if self.first == "corrector":
            x, calls = correct(x, float(grid[0]))
        for step in run(self.predictor.tableau(denoiser.sde, grid), denoiser, x, noise, cond, correct):
            yield step._replace(nfe=step.nfe + calls)
