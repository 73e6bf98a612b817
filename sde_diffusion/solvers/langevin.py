"""Langevin moves, which stay at one noise level.

    x <- x + e score(x, t) + sqrt(2 e) z                                                         (1)

With step e; the literature's gamma is 2e (Roberts & Tweedie 1996). The stationary variance on N(0, 1) is 1/(1 - e/2): for a finite step
it is not exact. Song et al. 2021 (arXiv 2011.13456) run it after each step of another solver, as a corrector.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.expressions import plain_floats
from sde_diffusion.noise import Noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_count, check_positive
from sde_diffusion.shapes import expand
from sde_diffusion.solvers.correctors import Corrector, Level
from sde_diffusion.solvers.tableau import Tableau


@dataclasses.dataclass(frozen=True)
class Langevin(Corrector):
    """Langevin moves (1) whose step follows from a signal-to-noise ratio, e = 2 (snr |z|/|score|)^2 (Song et al. 2021, algorithms 4, 5).

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

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(snr=self.snr)
        check_count(steps=self.steps)
        if self.norm not in ("expected", "sample", "batch"):
            raise ValueError(f"norm must be 'expected', 'sample' or 'batch', got {self.norm!r}")

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        if self.norm != "expected":
            raise ValueError(f"{self} measures norms while it runs and has no table; use norm='expected'")
        return langevin_rows(sde, s, 2 * (self.snr * sde.sigma(s)) ** 2, self.steps, torch.ones_like(s), s)

    def moves(self, level: Level, x: Tensor, noise: Noise, cond: Any) -> tuple[Tensor, int]:
        for _ in range(self.steps):
            x = self._move(level, x, noise, cond)
        return x, self.steps

    def _move(self, level: Level, x: Tensor, noise: Noise, cond: Any) -> Tensor:
        if self.norm == "expected":
            raw, k = level.predict.raw(x, cond), 2 * self.snr**2  # e/sigma^2
            weight = k * level.alpha  # of x0_hat = skip x + out raw
            moved = (x * (1 - k + weight * level.predict.skip)).add_(raw, alpha=weight * level.predict.out)
            return moved.add_(noise(x), alpha=(2 * k) ** 0.5 * level.sigma)
        score, z = level.score(x, cond), noise(x)
        length = score.flatten(1).norm(dim=1)
        ratio = z.flatten(1).norm(dim=1).mean() / length.mean() if self.norm == "batch" else x[0].numel() ** 0.5 / length
        return langevin_move(x, score, z, expand(2 * (self.snr * ratio) ** 2, x))


def langevin_move(x: Tensor, score: Tensor, z: Tensor, step: Tensor) -> Tensor:
    """The move (1), with a step e per sample or per coordinate that broadcasts over x."""
    return x + step * score + (2 * step).sqrt() * z


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
        p=rows(x0, x0 * scale)[:, None],
        noise=rows(noise, noise * scale),
        ends=rows(torch.full_like(ends, torch.nan), ends),
    )
