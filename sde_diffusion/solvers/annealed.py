"""Langevin moves down a ladder of noise levels: NCSN's sampler, its second version's step, and its consistent form.

In y = x/alpha, with rho = sigma/alpha, the score of a level is (x0_hat - y)/rho^2, and a Langevin move of e = eta rho^2 is

    y <- (1 - eta) y + eta x0_hat + sqrt(2 eta) rho z,    eta = epsilon/rho_L^2                  (1)

On data that are a point the variance in units of rho^2 becomes (1 - eta)^2 r + 2 eta, whose fixed point is kappa = 1/(1 - eta/2); from the
last level, r = gamma^2 with gamma = rho_{i-1}/rho_i, T moves lead to

    r_T = (1 - eta)^(2T) (gamma^2 - kappa) + kappa                                               (2)

Every level starts too wide, and (1) leaves it too wide. Adding less noise, to the next level's rho' = rho/gamma, makes it exact:

    y <- (1 - eta) y + eta x0_hat + sqrt(rho'^2 - (1 - eta)^2 rho^2) z                           (3)

Song & Ermon 2019 (arXiv 1907.05600) for (1), 2020 (2006.09011) for (2), Jolicoeur-Martineau et al. 2020 (2009.05475) for (3).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from sde_diffusion.expressions import plain_floats
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_count, check_positive
from sde_diffusion.solvers.base import Solver
from sde_diffusion.solvers.langevin import langevin_rows
from sde_diffusion.solvers.tableau import Tableau

_ROUNDING = 1e-6  # of the ratios of levels that passed through float32


@dataclasses.dataclass(frozen=True)
class AnnealedLangevin(Solver):
    """Langevin moves (1) at every noise level from the largest down (Song & Ermon 2019, algorithm 1), then x0_hat at the end of a ladder.

    At each time of the grid but the last it makes `steps` moves of e = epsilon (sigma/sigma_L)^2, sigma_L the noise of the last level
    at which it moves, and hands the state to the next level unchanged; if the signal is scaled, all this happens in x/alpha. A grid that
    ends where sigma = 0 ends with the denoised state. The paper's step alpha_i is 2e; its code's `step_lr` is epsilon.

    Args:
        epsilon: step at the last level, > 0, in units of the data squared; the paper's code has 2e-5 for sigma_L = 0.01, and
            `ncsnv2_epsilon(sigmas, steps)` is the second paper's choice.
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

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        alpha, rho = sde.alpha(t), sde.sigma(t) / sde.alpha(t)
        rows = langevin_rows(sde, t, self.epsilon * (alpha * rho / rho[-1]) ** 2, self.steps, sde.alpha(s) / alpha, s)
        return _denoised(rows, sde, t, s)


@dataclasses.dataclass(frozen=True)
class ConsistentAnnealed(Solver):
    """One move (3) per noise level, with just the noise that the next level has (Jolicoeur-Martineau et al. 2020).

    With rho = sigma/alpha, rho_L that of the last level at which it moves, eta = epsilon/rho_L^2 and gamma = rho_s/rho_t < 1,

        x_s/alpha_s = (1 - eta) x_t/alpha_t + eta x0_hat + rho_s sqrt(1 - ((1 - eta)/gamma)^2) z

    The move to rho_s = 0 has no noise, and x0_hat of where it leads is the end, as in `AnnealedLangevin`. On a geometric ladder
    eta = 1 - gamma^2 makes it `Ancestral`.

    Args:
        epsilon: step at the last level, > 0, in units of the data squared, so that |1 - eta| < gamma from each level to the next; the
            paper's code has 5.6e-6 for 232 levels from 50 to 0.01.

    Raises:
        ValueError: if epsilon is not positive; while making the table, if it is too small or too large for the grid.
    """

    epsilon: float = 5.6e-6
    order: ClassVar[int] = 0
    default_steps: ClassVar[int] = 232

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(epsilon=self.epsilon)

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        alpha, rho, rho_s = sde.alpha(t), sde.sigma(t) / sde.alpha(t), sde.sigma(s) / sde.alpha(s)
        eta, scale = self.epsilon / rho[-1] ** 2, sde.alpha(s)
        variance = rho_s**2 - ((1 - eta) * rho) ** 2
        wrong = (rho_s > 0) & ~(variance > 0)
        if wrong.any():
            least = (rho_s / rho)[rho_s > 0].min()
            low, high = ((1 - least) * rho[-1] ** 2).item(), ((1 + least) * rho[-1] ** 2).item()
            i = int(wrong.nonzero()[0])
            raise ValueError(
                f"epsilon={self.epsilon:g} does not fit the step from sigma/alpha={rho[i].item():.4g} to {rho_s[i].item():.4g}: on this "
                f"grid it must lie between {low:.4g} and {high:.4g}; change it, or take more levels"
            )
        noise = torch.where(rho_s > 0, variance.clamp(min=0).sqrt(), 0.0)
        rows = Tableau(t=t, x=scale * (1 - eta) / alpha, p=(scale * eta)[:, None], noise=scale * noise, ends=s)
        return _denoised(rows, sde, t, s)


def _denoised(rows: Tableau, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
    """The rows, and where they end without noise a last one that returns x0_hat at the last level."""
    if sde.sigma(s[-1]) > 0:
        return rows
    ends = rows.ends.clone()
    ends[-1] = torch.nan
    last = Tableau(t=t[-1:], x=torch.zeros_like(t[-1:]), p=sde.alpha(s[-1:])[:, None], ends=s[-1:])
    return Tableau.concatenate([dataclasses.replace(rows, ends=ends), last])


def ncsnv2_epsilon(sigmas: Sequence[float], steps: int) -> float:
    """The step of `AnnealedLangevin` that brings (2) nearest to 1 (Song & Ermon 2020, technique 4).

        epsilon = sigma_L^2 argmin_eta |(1 - eta)^(2T) (gamma^2 - kappa) + kappa - 1|,    kappa = 2 eta/(1 - (1 - eta)^2)

    What is minimised is positive on (0, 1): gamma^2 > 1 and kappa > 1.

    Args:
        sigmas: increasing levels in geometric progression, at least 2, such as `ncsnv2_sigmas(d)`.
        steps: moves T per level, >= 1.

    Raises:
        ValueError: if the levels are not such, or steps is not a whole number.
    """
    from scipy.optimize import minimize_scalar

    check_count(steps=steps)
    ratios = [high / low for low, high in itertools.pairwise(sigmas) if low > 0]
    if not ratios or len(ratios) < len(sigmas) - 1 or min(ratios) <= 1 or max(ratios) > (1 + _ROUNDING) * min(ratios):
        shown = ", ".join(f"{sigma:g}" for sigma in sigmas[:4])
        raise ValueError(f"sigmas must be positive and increase in geometric progression, got ({shown}, ...); use geometric_sigmas?")
    gamma2 = (sigmas[-1] / sigmas[0]) ** (2 / len(ratios))

    def excess(eta: float) -> float:
        kappa = 1 / (1 - eta / 2)
        return (1 - eta) ** (2 * steps) * (gamma2 - kappa) + kappa - 1

    return float(minimize_scalar(excess, bounds=(0, 1), method="bounded", options={"xatol": 1e-12}).x * sigmas[0] ** 2)
