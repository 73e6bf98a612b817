"""Weak order, measured: the error in mean and standard deviation on Gaussian data of four widths, from the exact marginal at t_max."""

import math

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.evaluation.gaussian_law import gaussian_law, gaussian_laws, marginal
from sde_diffusion.solvers.multistep import Multistep

MEANS, STDS = [1.0, -0.5, 0.3, 0.2], [0.5, 1.0, 0.1, 1.5]

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
    *(solver(form) for solver in (sd.Euler, sd.Heun, sd.Midpoint, sd.RK4) for form in ("epsilon", "x0", "velocity", "t")),
    *(solver(form, eta) for solver in (sd.Euler, sd.Heun, sd.Midpoint, sd.RK4) for form in ("epsilon", "x0") for eta in (0.5, 1.0)),
    *(sd.DPMSolver(order, form, eta) for order in (1, 2, 3) for form in ("epsilon", "x0") for eta in (0.0, 1.0)),
    *(sd.DPMSolverPP(order, stochastic) for order in (1, 2, 3) for stochastic in (False, True)),
    sd.DPMSolverPP(2, exact=True),
    *(sd.AdamsBashforth(order, form) for order in (1, 2, 3, 4, 5) for form in ("epsilon", "velocity", "x0")),
    *(sd.AdamsBashforth(3, form, corrector=True) for form in ("epsilon", "velocity", "x0")),
    *(sd.DEIS(order) for order in (1, 2, 3)),
    *(sd.IPNDM(order, variable_step) for order in (1, 2, 3, 4) for variable_step in (False, True)),
    *(
        sd.UniPC(order, variant, corrector, form)
        for order in (1, 2, 3)
        for variant in ("bh1", "bh2")
        for corrector in (False, True)
        for form in ("x0", "epsilon")
    ),
    *(sd.SASolver(order, eta, corrector) for order in (1, 2, 3) for eta in (0.0, 1.0) for corrector in (False, True)),
    *(sd.DPMSolverPP(order, noisy, form="epsilon") for order in (2, 3) for noisy in (False, True)),
    *(sd.SASolver(order, published=True) for order in (1, 2, 3)),
    sd.SASolver(2, eta=0.0, published=True),
    sd.IPNDM(4, start="heun"),
    *(sd.IPNDM(order, variable_step=True, published=True) for order in (2, 3, 4)),
    *(sd.Renoise(solver) for solver in (sd.Euler(), sd.Midpoint(), sd.Midpoint("x0"), sd.DPMSolver(3), sd.Heun())),
    sd.Churn(sd.Heun(), s_noise=1.0),
    sd.AnalyticFirstStep(sd.Heun()),
]


def gentle(sde: sd.AffineSDE, n: int) -> torch.Tensor:
    """A grid that begins with steps of order n^-3, so that the lower order of a multistep solver's first steps does not show."""
    u = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    ends = sde.log_snr(torch.tensor([sde.t_max, sde.t_min], dtype=torch.float64))
    grid = sde.t_of_log_snr(torch.lerp(*ends, u**3 * (4 - 3 * u)))
    grid[0], grid[-1] = sde.t_max, sde.t_min
    return grid


def errors(solver: sd.Solver, sdes: list[sd.AffineSDE], n: int) -> list[float]:
    denoisers = [sd.GaussianDenoiser(MEANS, STDS, sde) for sde in sdes]
    multistep = isinstance(solver, Multistep)
    grids = [gentle(sde, n) if multistep else solver.default_grid(sde, n) for sde in sdes]
    tables = [solver.tableau(sde, grid) for sde, grid in zip(sdes, grids, strict=True)]
    starts = [marginal(denoiser, sde.t_max) for denoiser, sde in zip(denoisers, sdes, strict=True)]
    if len({len(table) for table in tables}) == 1:
        laws = gaussian_laws(tables, denoisers, *zip(*starts, strict=True))
    else:
        laws = [gaussian_law(*job, mean=mean, std=std) for *job, (mean, std) in zip(tables, denoisers, starts, strict=True)]
    worst = []
    for denoiser, sde, (mean, variance) in zip(denoisers, sdes, laws, strict=True):
        true_mean, true_std = marginal(denoiser, sde.t_min)
        worst.append(max((mean - true_mean).abs().max().item(), (variance.sqrt() - true_std).abs().max().item()))
    return worst


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_measured_weak_order_is_at_least_the_claimed_one_on_every_process(solver):
    # An order above the claim is luck of one problem and no defect. Some errors of order 3 and 5 settle late, or change sign on
    # the way: 2.80 and 4.89 from 512 on.
    n = 1024 if solver.weak_order in (3, 5) else 512
    for sde, coarse, fine in zip(SDES, errors(solver, SDES, n), errors(solver, SDES, 2 * n), strict=True):
        assert math.log2(coarse / fine) >= solver.weak_order - 0.1, sde


@pytest.mark.parametrize(("solver", "order"), [(sd.AdamsBashforth(4), 2), (sd.DPMSolverPP(3), 2)], ids=repr)
def test_on_a_grid_that_begins_at_full_stride_the_first_steps_of_a_multistep_solver_show(solver, order):
    sde, errors = sd.RectifiedFlow(t_max=0.9), []
    denoiser = sd.GaussianDenoiser(MEANS, STDS, sde)
    (mean, std), (_, true_std) = marginal(denoiser, sde.t_max), marginal(denoiser, sde.t_min)
    for n in (512, 1024):
        _, variance = gaussian_law(solver.tableau(sde, sd.log_snr(sde, n)), denoiser, mean=mean, std=std)
        errors.append((variance.sqrt() - true_std).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)
