"""The predictors of score_sde_pytorch as tables of our solvers.

    reverse_diffusion on VP, VE          ReverseDiffusion on `sde.chain`, nodes N/N, ..., 0
    ancestral_sampling                   Ancestral on `sde.chain`
    euler_maruyama; the first on sub-VP  EulerMaruyama on `sde.ours`, times t_0, ..., t_{N-1}, 0

with eta = 0 for the flow, and no noise in the last row if the sampler denoises. The times of the score are 1 = t_0 > ... > t_{N-1} = eps in
equal steps; on a chain t_i belongs to the node (N - i)/N.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from sde_diffusion.interop.score_sde.base import SDE, ScoreFn
from sde_diffusion.interop.score_sde.models import ScoreFunction
from sde_diffusion.interop.score_sde.sdes import VESDE, VPSDE, AffineScoreSDE, subVPSDE
from sde_diffusion.interop.score_sde.updates import (
    AncestralSamplingPredictor,
    EulerMaruyamaPredictor,
    Predictor,
    ReverseDiffusionPredictor,
)
from sde_diffusion.noise import Noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.solvers import Ancestral, EulerMaruyama, ReverseDiffusion, Solver
from sde_diffusion.solvers.base import run


@dataclasses.dataclass(frozen=True)
class PredictorTable:
    """A predictor as one of our solvers.

    Args:
        solver: its steps.
        process: what they are taken on.
        grid: the times of the process, (N + 1,), float64.
        tau: from times of the process to those of the score.
        denoise: whether the last row has no noise.
    """

    solver: Solver
    process: AffineSDE
    grid: Tensor
    tau: Callable[[Tensor], Tensor]
    denoise: bool

    def run(self, score_fn: ScoreFn, x: Tensor, noise: Noise, correct: Callable[[Tensor, float], Tensor]) -> Tensor:
        """The samples from x (b, *d) at the first time, with `correct(x, t)`, t of the score, before each row."""
        times = dict(zip(self.grid.tolist(), self.tau(self.grid).tolist(), strict=True))
        first, last = float(self.grid[0]), float(self.grid[-1])
        table = self.solver.tableau(self.process, self.grid)
        if self.denoise:
            table = dataclasses.replace(table, noise=torch.cat([table.noise[:-1], table.noise.new_zeros(1)]))

        def move(x: Tensor, t: float) -> tuple[Tensor, int]:
            return (x if t == last else correct(x, times[t])), 0

        x, _ = move(x, first)
        for step in run(table, ScoreFunction(self.process, score_fn, self.tau), x, noise, corrector=move):
            x = step.x
        return x


def table_of(sde: SDE, predictor: type[Predictor] | None, probability_flow: bool, eps: float, denoise: bool) -> PredictorTable | None:
    """The table of the very classes of this package; None for others, a subclass included, which may have changed any of their methods."""
    eta, n = 0.0 if probability_flow else 1.0, sde.N
    if type(sde) not in (VPSDE, subVPSDE, VESDE) or not isinstance(sde, AffineScoreSDE):
        return None
    if predictor is EulerMaruyamaPredictor or (predictor is ReverseDiffusionPredictor and isinstance(sde, subVPSDE)):
        times = torch.cat([torch.linspace(1, eps, n, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
        return PredictorTable(EulerMaruyama(eta), sde.ours, times, lambda t: t, denoise)
    if not isinstance(sde, VPSDE | VESDE) or eps * (n - 1) >= 1:  # the last steps of the chain are not taken then
        return None
    solvers: dict[type[Predictor] | None, Solver] = {ReverseDiffusionPredictor: ReverseDiffusion(eta)}
    # Where it must have noise: DDPM's last step has none, in our table as in the paper, but the reference's has.
    if not probability_flow and (denoise or sde.ancestral == "posterior"):
        solvers[AncestralSamplingPredictor] = Ancestral(sde.ancestral)
    if predictor not in solvers:
        return None
    nodes = torch.linspace(n, 0, n + 1, dtype=torch.float64) / n
    return PredictorTable(solvers[predictor], sde.chain, nodes, lambda t: 1 - (1 - eps) * (1 - t) * (n / (n - 1)), denoise)
