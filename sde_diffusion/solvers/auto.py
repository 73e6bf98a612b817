"""A solver and a grid for a budget of network calls, chosen from what was measured.

`benchmarks/auto.py` measures it: on mixtures of 10 Gaussians in 64 dimensions and of 8 on a ring, over the ranges of VP and EDM, with exact
scores and 8 to 50 calls, its path error is 1.5 times that of the best of some 300 configurations of other toolkits, each cell with its own
best, and 0.9 times in the median over paths. Chosen on other mixtures and on three small trained networks. What lost there: order 5 at less
than 40 calls and weights without a limit (better with exact scores by a fifth, 2 to 7 times worse with networks), the analytic first step
(2 to 10 times worse on data of mean 0.3 and standard deviation 0.4), no corrector (twice the error), the forms "epsilon" and "x0" (twice to
five times), Karras' grids (three to seven times). It is weakest at 8 calls on the ring: ten times the best median there.
"""

from __future__ import annotations

from typing import NamedTuple

from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_count
from sde_diffusion.solvers.base import Solver
from sde_diffusion.solvers.grids import Grid, vp_power
from sde_diffusion.solvers.multistep import AdamsBashforth

_FIFTH_ORDER = 40  # calls from which order 5 beats 4 on networks too; with exact denoisers it does from about 15
_R = 2.0  # 2.25 is slightly better for data of standard deviation 0.5 and on networks, and worse on mixtures of other seeds
_LIMIT = 2.0  # 1.5 is no better on networks and worse with exact scores, 3 is worse on networks


class Choice(NamedTuple):
    """What `sample` is to be given."""

    solver: Solver
    grid: Grid
    steps: int


def auto(sde: AffineSDE, nfe: int) -> Choice:
    """A deterministic solver, its grid and number of steps for a budget: corrected Adams-Bashforth in velocity, one call per step.

    Args:
        sde: the process, over whose whole range the grid runs.
        nfe: network calls, at least 1.

    Raises:
        ValueError: if nfe is not a whole number of at least 1.
    """
    check_count(nfe=nfe)
    solver = AdamsBashforth(4 if nfe < _FIFTH_ORDER else 5, "velocity", corrector=True, lower_final=2, limit=_LIMIT)
    return Choice(solver, vp_power(R=_R), nfe)
