"""Langevin moves with a velocity, which walk on where plain ones diffuse.

    dx = v dtau,    dv = score(x, t) dtau - gamma v dtau + sqrt(2 gamma) dw                      (1)

has the stationary law p_t(x) N(v; 0, I). On N(0, S^2) it is a damped oscillator of frequency 1/S: with gamma = 2/S, critically damped, it
forgets its start in a time S, that is S/h steps, where Langevin moves of length h need (S/h)^2. A step h of (1) is split into (Leimkuhler &
Matthews 2013, "Robust and efficient configurational molecular sampling via Langevin dynamics")

    B: v <- v + h/2 score(x)    A: x <- x + h/2 v    O: v <- c v + sqrt(1 - c^2) z, c = exp(-gamma h)    A    B    (2)

each part of which is solved exactly. On Gaussian data the stationary variance of x is exact at every step h < 2 S: between two kicks O
leaves v ~ N(0, 1) independent of x, where x has variance S^2 - h^2/4; the drift A adds h^2/4. The kick that ends one step and the one that
begins the next are at the same x, so that a step is one call of the score.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from torch import Tensor

from sde_diffusion.expressions import plain_floats
from sde_diffusion.noise import Noise
from sde_diffusion.sdes.base import check_count, check_positive
from sde_diffusion.solvers.correctors import Corrector, Level


@dataclasses.dataclass(frozen=True)
class UnderdampedLangevin(Corrector):
    """Kinetic Langevin moves by the splitting (2) with h = step sigma and gamma = 2/sqrt(alpha^2 std^2 + sigma^2).

    Each level begins with a fresh velocity N(0, I), so one move is a Langevin move (e = h^2 (1 + c)/4) with its bias; the variance becomes
    exact over the moves in which the velocity finds its own. It pays off with several moves per level.

    Args:
        step: length of a step in units of sigma, in (0, 2): at 2 the narrowest data there can be, a point, are no longer stable.
        steps: moves per noise level.
        std: standard deviation of the data along their widest direction, > 0, which is the one that is damped critically.

    Raises:
        ValueError: for a number out of range.
    """

    step: float = 0.5
    steps: int = 10
    std: float = 1.0

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(step=self.step, std=self.std)
        check_count(steps=self.steps)
        if self.step >= 2:
            raise ValueError(f"step must be less than 2 sigma, where the moves become unstable on narrow data, got {self.step}")

    def moves(self, level: Level, x: Tensor, noise: Noise, cond: Any) -> tuple[Tensor, int]:
        h = self.step * level.sigma
        c = math.exp(-2 * h / math.hypot(level.alpha * self.std, level.sigma))
        v = noise(x)
        for i in range(self.steps):
            v = v + (h if i else h / 2) * level.score(x, cond)  # the last step's B and this one's
            x = x + h / 2 * v
            v = c * v + (1 - c**2) ** 0.5 * noise(x)
            x = x + h / 2 * v
        return x, self.steps  # the last B would change v alone
