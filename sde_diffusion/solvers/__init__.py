"""How to get from noise to data: a solver turns (SDE, grid) into a table of numbers, `sample` runs it."""

from sde_diffusion.solvers.adaptive import ProbabilityFlowODE
from sde_diffusion.solvers.base import Solver, Step
from sde_diffusion.solvers.combinators import FinalDenoise
from sde_diffusion.solvers.first_order import DDIM, Ancestral, EulerMaruyama, ReverseDiffusion
from sde_diffusion.solvers.grids import Grid, chain_grid, karras, log_snr, quadratic, uniform
from sde_diffusion.solvers.langevin import AnnealedLangevin, Langevin, PredictorCorrector
from sde_diffusion.solvers.runge_kutta import Heun
from sde_diffusion.solvers.sampling import sample, trajectory
from sde_diffusion.solvers.tableau import Tableau

__all__ = [
    "DDIM",
    "Ancestral",
    "AnnealedLangevin",
    "EulerMaruyama",
    "FinalDenoise",
    "Grid",
    "Heun",
    "Langevin",
    "PredictorCorrector",
    "ProbabilityFlowODE",
    "ReverseDiffusion",
    "Solver",
    "Step",
    "Tableau",
    "chain_grid",
    "karras",
    "log_snr",
    "quadratic",
    "sample",
    "trajectory",
    "uniform",
]
