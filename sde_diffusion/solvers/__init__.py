"""How to get from noise to data: a solver turns (SDE, grid) into a table of numbers, `sample` runs it."""

from sde_diffusion.solvers.adaptive import AdaptiveODE
from sde_diffusion.solvers.adaptive_sde import AdaptiveSDE
from sde_diffusion.solvers.annealed import AnnealedLangevin, ConsistentAnnealed, ncsnv2_epsilon
from sde_diffusion.solvers.auto import auto
from sde_diffusion.solvers.base import Solver, Step
from sde_diffusion.solvers.bilateral import bilateral
from sde_diffusion.solvers.combinators import AnalyticFirstStep, Churn, FinalDenoise, Projected, Renoise, Truncate
from sde_diffusion.solvers.comparison import WorkPrecision, compare
from sde_diffusion.solvers.correctors import Corrector
from sde_diffusion.solvers.dynamic_programming import dynamic_programming, variational_bound
from sde_diffusion.solvers.external import ScipyODE, TorchSDE
from sde_diffusion.solvers.first_order import DDIM, Ancestral, EulerMaruyama, ReverseDiffusion
from sde_diffusion.solvers.fitted import FitErrors, FittedSolver
from sde_diffusion.solvers.fitting import fit
from sde_diffusion.solvers.generic import simulate_reverse
from sde_diffusion.solvers.grids import Grid, chain_grid, cosine, exponential, karras, log_snr, quadratic, sigma_uniform, uniform, vp_power
from sde_diffusion.solvers.langevin import Langevin
from sde_diffusion.solvers.matched import Matched, match
from sde_diffusion.solvers.metropolis import MetropolisLangevin
from sde_diffusion.solvers.multistep import DEIS, IPNDM, AdamsBashforth, DPMSolverPP, SASolver, UniPC
from sde_diffusion.solvers.preconditioned import PreconditionedLangevin
from sde_diffusion.solvers.predictor_corrector import PredictorCorrector
from sde_diffusion.solvers.runge_kutta import RK4, DPMSolver, Euler, Heun, Midpoint
from sde_diffusion.solvers.sampling import sample, trajectory
from sde_diffusion.solvers.tableau import Tableau
from sde_diffusion.solvers.trajectories import Trajectories
from sde_diffusion.solvers.underdamped import UnderdampedLangevin
from sde_diffusion.solvers.variance import ReconstructionError

__all__ = [
    "DDIM",
    "DEIS",
    "IPNDM",
    "RK4",
    "AdamsBashforth",
    "AdaptiveODE",
    "AdaptiveSDE",
    "AnalyticFirstStep",
    "Ancestral",
    "AnnealedLangevin",
    "Churn",
    "ConsistentAnnealed",
    "Corrector",
    "DPMSolver",
    "DPMSolverPP",
    "Euler",
    "EulerMaruyama",
    "FinalDenoise",
    "FitErrors",
    "FittedSolver",
    "Grid",
    "Heun",
    "Langevin",
    "Matched",
    "MetropolisLangevin",
    "Midpoint",
    "PreconditionedLangevin",
    "PredictorCorrector",
    "Projected",
    "ReconstructionError",
    "Renoise",
    "ReverseDiffusion",
    "SASolver",
    "ScipyODE",
    "Solver",
    "Step",
    "Tableau",
    "TorchSDE",
    "Trajectories",
    "Truncate",
    "UnderdampedLangevin",
    "UniPC",
    "WorkPrecision",
    "auto",
    "bilateral",
    "chain_grid",
    "compare",
    "cosine",
    "dynamic_programming",
    "exponential",
    "fit",
    "karras",
    "log_snr",
    "match",
    "ncsnv2_epsilon",
    "quadratic",
    "sample",
    "sigma_uniform",
    "simulate_reverse",
    "trajectory",
    "uniform",
    "variational_bound",
    "vp_power",
]
