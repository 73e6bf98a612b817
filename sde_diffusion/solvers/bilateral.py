"""The noise schedule of bilateral denoising diffusion, from the model's error alone.

A step of variance b at a level with delta^2 = sigma^2 = 1 - alpha^2 costs, per dimension (Lam et al. 2022, BDDM, arXiv 2108.11514),

    L(b) = delta^2/(2(delta^2 - b)) E|eps - (b/delta^2) eps_hat|^2/d + log(delta^2/b)/4 + (b/delta^2 - 1)/2             (1)

With c = b/delta^2, u = 1 - c and q = E|eps - eps_hat|^2/d = (alpha/sigma)^2 e, where eps_hat is the mean of eps given the state, (1) is
(q/2)(1/u - u) - log(c)/4: convex, with its one minimum at the root in (0, 1) of

    2 q (1 - u)(1 + u^2) = u^2.                                                                  (2)

BDDM learns b with a network of its own; by (2) it is a function of the noise level, known from the errors. The schedule follows it from
t_max, alpha_s^2 = alpha_t^2/(1 - b). It chooses its number of steps itself: next to the data q tends to 1, and no step removes more than a
fifth of delta^2. A grid of n steps therefore follows it for n - 1 of them and reaches t_min in the last, which with few steps is too far.
"""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

from sde_diffusion.sdes import AffineSDE
from sde_diffusion.solvers.grids import ends, grid
from sde_diffusion.solvers.variance import ReconstructionError


def best_share(q: float) -> float:
    """c = b/delta^2 that minimises (1), by (2).

    Args:
        q: E|eps - eps_hat|^2/d, >= 0.

    Raises:
        ValueError: for a negative q.
    """
    if not q >= 0:
        raise ValueError(f"q is a mean square and cannot be negative, got {q}")
    if q == 0:
        return 1.0  # (1) is -log(c)/4
    roots = numpy.roots([2 * q, 1 - 2 * q, 2 * q, -2 * q])
    return 1 - float(next(r.real for r in roots if abs(r.imag) < 1e-9 and 0 < r.real < 1))


@grid
def bilateral(
    sde: AffineSDE, n: int, *, errors: ReconstructionError | None = None, t_min: float | None = None, t_max: float | None = None
) -> Tensor:
    """The first n - 1 steps of BDDM's schedule (2) and one to t_min; for processes of any scale, at equal sigma/alpha.

    Args of the grid:
        errors: of the model that is sampled.
    """
    if errors is None:
        raise ValueError("bilateral follows from a model's errors; pass errors=ReconstructionError.estimate(denoiser, data)")
    start, end = ends(sde, t_min, t_max)
    levels = [float(sde.log_snr(start))]
    for _ in range(n - 1):
        lam = torch.tensor(levels[-1], dtype=torch.float64)
        q = float(errors.at(lam) * torch.exp(2 * lam))
        variance = torch.sigmoid(-2 * lam)  # delta^2 of the variance-preserving process of this level
        alpha2 = (1 - variance) / (1 - best_share(q) * variance)
        levels.append(float(0.5 * (alpha2 / (1 - alpha2)).log()))
    times = torch.cat([sde.t_of_log_snr(torch.tensor(levels, dtype=torch.float64)), torch.tensor([end], dtype=torch.float64)])
    if not times[-2] > end:
        raise ValueError(f"BDDM's schedule reaches t_min={end:g} in fewer than n={n} steps; ask for fewer")
    return times
