"""Weak order, measured: the error in mean and standard deviation on Gaussian data of four widths, from the exact marginal at t_max."""

import math

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.evaluation.gaussian_law import gaussian_law, marginal

MEANS, STDS = [1.0, -0.5, 0.3, 0.2], [0.5, 1.0, 0.1, 2.0]

SDES = [
    sd.VPSDE(),
    sd.SubVPSDE(),
    sd.CosineVPSDE(),
    sd.VESDE(),
    sd.EDMSDE(),
    sd.RectifiedFlow(t_max=0.9),  # at 0.999 |f| starts at 1000, and the asymptotic slope shows beyond 4000 steps only (0.89 there)
    sd.AffineSDE.from_coefficients(lambda t: -torch.sin(2 * t), lambda t: 0.5 + 3 * t**2),
]
SOLVERS = [
    *(sd.EulerMaruyama(eta) for eta in (0.0, 0.5, 1.0, 1.5)),
    sd.ReverseDiffusion(),
    sd.ReverseDiffusion(eta=0.0),
    sd.Ancestral("posterior"),
    sd.Ancestral("forward"),
    *(sd.DDIM(eta) for eta in (0.0, 0.5, 1.0)),
    sd.Heun("sigma"),
    sd.Heun("t"),
]


def error(solver: sd.Solver, sde: sd.AffineSDE, n: int) -> float:
    denoiser = sd.GaussianDenoiser(MEANS, STDS, sde)
    grid = solver.default_grid(sde, n)
    (mean_0, std_0), (mean_1, std_1) = (marginal(denoiser, float(grid[i])) for i in (0, -1))
    mean, variance = gaussian_law(solver.tableau(sde, grid), denoiser, mean=mean_0, std=std_0)
    return max((mean - mean_1).abs().max().item(), (variance.sqrt() - std_1).abs().max().item())


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_measured_weak_order_is_the_claimed_one(solver, sde):
    # 512 -> 1024; an order above the claim is luck of one problem and no defect
    measured = math.log2(error(solver, sde, 512) / error(solver, sde, 1024))
    assert measured >= solver.order - 0.1
