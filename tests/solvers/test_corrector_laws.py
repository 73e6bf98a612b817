"""Rows D8 and G1d: the exact law that preconditioned and kinetic moves make of Gaussian data, and how fast.

These moves are affine in the state and in their draws, so the response to one unit in each of them is the law: no Monte Carlo.
"""

import dataclasses
import math

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.evaluation.gaussian_law import gaussian_law, marginal
from sde_diffusion.solvers.correctors import Corrector
from sde_diffusion.solvers.preconditioned import PreconditionedLangevin
from sde_diffusion.solvers.underdamped import UnderdampedLangevin

SDES = [sd.VPSDE(), sd.SubVPSDE(), sd.VESDE(sigma_max=5.0)]


class Impulses:
    """The k-th draw is 1 in sample k and 0 in all others."""

    def __init__(self) -> None:
        self.drawn = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.drawn += 1
        z = torch.zeros_like(x)
        z[self.drawn] = 1
        return z


def variance_after(solver: sd.Solver, denoiser: sd.GaussianDenoiser, grid: torch.Tensor, std: torch.Tensor | float) -> torch.Tensor:
    """The variance per coordinate that a solver makes of N(0, std^2), for data of mean 0."""
    x = torch.zeros(1200, denoiser.means.shape[1], dtype=torch.float64)
    x[0] = 1
    x = sd.sample(denoiser, solver, x=x, grid=grid, noise=Impulses())
    return (x[0] * std) ** 2 + (x[1:] ** 2).sum(0)


def level(sde: sd.AffineSDE, rho: float) -> torch.Tensor:
    """A grid whose last time has sigma/alpha = rho: a corrector moves there alone."""
    t = sde.t_of_log_snr(torch.tensor(-math.log(rho), dtype=torch.float64)).item()
    return torch.tensor([t + 1e-9, t], dtype=torch.float64)


# p_t = N(0, diag(1, .01)): data N(0, diag(.99, 0)) at sigma = 0.1
ILL = sd.GaussianDenoiser([0.0, 0.0], [0.99**0.5, 0.0], sd.VESDE())
ILL_GRID, ILL_STD = level(ILL.sde, 0.1), (0.99**0.5, 0.0)
ILL_VARIANCE = torch.tensor([1.0, 0.01], dtype=torch.float64)


def good(variance: torch.Tensor) -> bool:
    """Row G1d's goal: W2 below .05 and every variance within 2 %."""
    w2 = (variance.sqrt() - ILL_VARIANCE.sqrt()).norm()
    return bool(w2 < 0.05 and ((variance / ILL_VARIANCE - 1).abs() < 0.02).all())


def plain_moves() -> int:
    """Langevin moves from a point to the goal: its e is bounded by the narrow variance's bias, 1/(1 - e/(2 0.01)) < 1.02."""
    e = 0.02 * (1 - 1 / 1.02) * (1 - 1e-4)

    def reaches(n: int) -> bool:
        table = sd.Langevin(snr=(e / 2) ** 0.5 / 0.1, steps=n).tableau(ILL.sde, ILL_GRID)
        return good(gaussian_law(table, ILL, mean=0.0, std=0.0)[1])

    low, high = 1, 8192
    while high - low > 1:
        n = (low + high) // 2
        low, high = (low, n) if reaches(n) else (n, high)
    return high


def moves(corrector: Corrector) -> int:
    """The least number of moves from a point to the goal."""
    return next(n for n in range(1, 1000) if good(variance_after(dataclasses.replace(corrector, steps=n), ILL, ILL_GRID, 0.0)))


def test_where_data_are_ill_conditioned_both_need_a_hundredth_of_the_calls():
    # row G1d asks for a fifth; measured 4978, 41 and 23 calls
    plain = plain_moves()
    assert plain == pytest.approx(4978, abs=2)
    assert moves(PreconditionedLangevin(ILL_STD, snr=(0.0392 / 2) ** 0.5)) <= plain / 100
    assert moves(UnderdampedLangevin(1.5, std=0.99**0.5)) <= plain / 200


def test_the_slow_direction_is_forgotten_in_7_moves_instead_of_919():
    # row D8: with the narrow direction at 1 - e/0.01 = 1/2 per move, ln(.01)/ln(1 - .005) = 918.7; with M both are at 1/2
    plain = sd.Langevin(snr=0.5, steps=919).tableau(ILL.sde, ILL_GRID)
    assert plain.x[0].item() == pytest.approx(0.5)  # of a point, the narrow direction

    def left(n: int) -> float:
        return gaussian_law(plain[:n], ILL, mean=1.0, std=0.0)[0][0].item()

    def left_preconditioned(n: int) -> float:
        x, solver = torch.ones(1, 2, dtype=torch.float64), PreconditionedLangevin(ILL_STD, snr=0.5, steps=n)
        return sd.sample(ILL, solver, x=x, grid=ILL_GRID, noise=torch.zeros_like).abs().max().item()

    assert left(919) < 0.01 < left(918)
    assert left_preconditioned(7) < 0.01 < left_preconditioned(6)


@pytest.mark.parametrize("sde", SDES, ids=type)
@pytest.mark.parametrize("rho", [0.02, 0.5, 3.0])
def test_every_coordinate_has_the_same_stationary_bias_when_preconditioned(sde, rho):
    stds = (3.0, 0.1, 0.0)
    denoiser, grid = sd.GaussianDenoiser([0.0] * 3, stds, sde), level(sde, rho)
    _, std = marginal(denoiser, float(grid[-1]))
    variance = variance_after(PreconditionedLangevin(stds, snr=0.3, steps=200), denoiser, grid, 2 * std)
    torch.testing.assert_close(variance / std**2, torch.full_like(std, 1 / (1 - 0.3**2)))


@pytest.mark.parametrize("sde", SDES, ids=type)
@pytest.mark.parametrize("rho", [0.02, 0.5, 3.0])
@pytest.mark.parametrize("step", [0.5, 1.9])
def test_the_stationary_variance_of_underdamped_langevin_is_exact_at_every_step(sde, rho, step):
    denoiser, grid = sd.GaussianDenoiser([0.0, 0.0], [2 * rho, 0.0], sde), level(sde, rho)
    _, std = marginal(denoiser, float(grid[-1]))
    variance = variance_after(UnderdampedLangevin(step, 500, std=2 * rho), denoiser, grid, 2 * std)
    torch.testing.assert_close(variance, std**2, rtol=1e-6, atol=0)


def test_one_underdamped_move_is_a_langevin_move():
    # e = h^2 (1 + c)/4, c = exp(-2 h/sqrt(alpha^2 std^2 + sigma^2))
    sde = sd.VPSDE()
    denoiser, grid = sd.GaussianDenoiser([0.0], [0.7], sde), level(sde, 0.5)
    alpha, sigma = sde.alpha(grid[-1]).item(), sde.sigma(grid[-1]).item()
    h = 0.8 * sigma
    e = h**2 * (1 + math.exp(-2 * h / math.hypot(0.6 * alpha, sigma))) / 4
    langevin = sd.Langevin(snr=(e / 2) ** 0.5 / sigma).tableau(sde, grid)
    _, expected = gaussian_law(langevin, denoiser, mean=0.0, std=1.3)
    torch.testing.assert_close(variance_after(UnderdampedLangevin(0.8, 1, std=0.6), denoiser, grid, 1.3), expected)


def test_with_std_0_the_preconditioned_moves_are_langevins():
    denoiser = sd.GaussianMixtureDenoiser([[1.0, 0.0], [-1.0, 1.0]], 0.5, None, sd.SubVPSDE())
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = sd.uniform(denoiser.sde, 4)
    a = sd.sample(denoiser, PreconditionedLangevin(0.0, snr=0.2, steps=2), x=x, grid=grid, seeds=range(6))
    b = sd.sample(denoiser, sd.Langevin(0.2, 2), x=x, grid=grid, seeds=range(6))
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sde", SDES, ids=type)
def test_as_correctors_they_repair_a_predictor_of_few_steps(sde):
    # exact variances over truth after 20 steps: VP alone 1.26 and 1.67, with Langevin 1.21 and 1.57, preconditioned 1.10 and 1.15,
    # underdamped 1.00 and 1.01; sub-VP and VE alike
    denoiser, grid = sd.GaussianDenoiser([0.0, 0.0], [1.0, 0.1], sde), sd.log_snr(sde, 20)
    start, end = (marginal(denoiser, float(grid[i]))[1] for i in (0, -1))

    def error(corrector: Corrector | None) -> float:
        solver = sd.ReverseDiffusion() if corrector is None else sd.PredictorCorrector(sd.ReverseDiffusion(), corrector)
        return (variance_after(solver, denoiser, grid, start) / end**2 - 1).abs().max().item()

    langevin, preconditioned = error(sd.Langevin(0.16)), error(PreconditionedLangevin((1.0, 0.1), 0.3))
    assert preconditioned < langevin / 2 < error(None) / 2
    assert error(UnderdampedLangevin(1.0, 5)) < 0.015


def test_the_preconditioner_can_come_from_data():
    generator = torch.Generator().manual_seed(0)
    data = torch.tensor([2.0, 0.5, 0.0]).reshape(1, 3, 1) * torch.randn(4000, 1, 3, 1, generator=generator)
    corrector = PreconditionedLangevin.from_data(data, snr=0.2, steps=3)
    assert corrector.std == pytest.approx((2.0, 0.5, 0.0), rel=0.05)
    assert (corrector.snr, corrector.steps) == (0.2, 3)
    x = torch.ones(2, 1, 3, 1)
    denoiser = sd.GaussianDenoiser(torch.zeros(1, 3, 1), 0.5, sd.VPSDE())
    assert sd.sample(denoiser, corrector, x=x, grid=level(denoiser.sde, 1.0), seeds=[0, 1]).shape == x.shape


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PreconditionedLangevin((1.0, -1.0)), r"std\[1\]=-1"),
        (lambda: PreconditionedLangevin(snr=0), "snr must be a positive number, got 0"),
        (lambda: PreconditionedLangevin.from_data(torch.zeros(1, 2)), "n >= 2"),
        (lambda: UnderdampedLangevin(2.0), "less than 2 sigma"),
        (lambda: UnderdampedLangevin(steps=0), "steps must be a whole number"),
        (lambda: UnderdampedLangevin(std=0.0), "std must be a positive number"),
        (lambda: variance_after(PreconditionedLangevin((1.0,) * 3), ILL, ILL_GRID, 0.0), r"3 numbers for states of shape \(b, 2\)"),
        (lambda: UnderdampedLangevin().tableau(ILL.sde, ILL_GRID), "has no table"),
    ],
)
def test_wrong_options_are_refused_with_their_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()
