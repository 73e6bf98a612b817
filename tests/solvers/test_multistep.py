"""Multistep solvers against independent transcriptions of their papers' algorithms, in float64 on a mixture."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

import sde_diffusion as sd

SDE = sd.VPSDE()
SOLVERS = [
    *(sd.AdamsBashforth(4, form) for form in ("epsilon", "velocity", "x0")),
    sd.AdamsBashforth(3, corrector=True),
    sd.DEIS(3),
    sd.DEIS(2, "log_snr"),
    sd.IPNDM(4),
    sd.IPNDM(3, variable_step=True),
    sd.DPMSolverPP(2),
    sd.DPMSolverPP(3),
    sd.DPMSolverPP(3, stochastic=True),
    sd.UniPC(3),
    sd.UniPC(2, "bh1", form="epsilon"),
    sd.SASolver(3),
]


def mixture(sde: sd.AffineSDE = SDE) -> sd.GaussianMixtureDenoiser:
    return sd.GaussianMixtureDenoiser([[1.0, -1.0], [-1.0, 0.5]], 0.3, [0.7, 0.3], sde)


def start() -> torch.Tensor:
    return torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def scales(grid: torch.Tensor) -> list[tuple[float, float, float]]:
    """(alpha, sigma, lambda) at each time."""
    return list(zip(SDE.alpha(grid).tolist(), SDE.sigma(grid).tolist(), SDE.log_snr(grid).tolist(), strict=True))


def test_2m_is_algorithm_2_of_dpm_solver_plus_plus():
    grid, denoiser, x = sd.karras(SDE, 9), mixture(), start()
    ours = sd.sample(denoiser, sd.DPMSolverPP(2), x=x, grid=grid)
    s, models = scales(grid), []
    for i in range(9):
        (_, sigma_t, lam_t), (alpha_s, sigma_s, lam_s) = s[i], s[i + 1]
        models.append(denoiser(x, grid[i]))
        h = lam_s - lam_t
        D = models[-1]
        if i > 0:
            r = (lam_t - s[i - 1][2]) / h
            D = (1 + 1 / (2 * r)) * models[-1] - 1 / (2 * r) * models[-2]
        x = sigma_s / sigma_t * x - alpha_s * (math.exp(-h) - 1) * D
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("published", [False, True])
def test_3m_is_the_exponential_integral_of_a_parabola_and_as_published_half_of_its_quadratic_term(published):
    # the official code's D2 is a divided difference, half of the second derivative that its formula multiplies
    grid, denoiser, x = sd.karras(SDE, 9), mixture(), start()
    ours = sd.sample(denoiser, sd.DPMSolverPP(3, published=published), x=x, grid=grid)
    s, models = scales(grid), []
    for i in range(9):
        (_, sigma_t, lam_t), (alpha_s, sigma_s, lam_s) = s[i], s[i + 1]
        models.append(denoiser(x, grid[i]))
        h = lam_s - lam_t
        phi = math.exp(-h) - 1
        new = sigma_s / sigma_t * x - alpha_s * phi * models[-1]
        if i == 1:
            r = (lam_t - s[0][2]) / h
            new = new - alpha_s * phi * 0.5 / r * (models[-1] - models[-2])
        elif i > 1:
            r0, r1 = (lam_t - s[i - 1][2]) / h, (s[i - 1][2] - s[i - 2][2]) / h
            D1_0, D1_1 = (models[-1] - models[-2]) / r0, (models[-2] - models[-3]) / r1
            D1 = D1_0 + r0 / (r0 + r1) * (D1_0 - D1_1)
            D2 = (D1_0 - D1_1) / (r0 + r1) * (1 if published else 2)
            new = new + alpha_s * (phi / h + 1) * D1 - alpha_s * ((phi + h) / h**2 - 0.5) * D2
        x = new
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("published", [False, True])
def test_as_published_3m_is_of_order_2(published):
    denoiser, x = mixture(), start()
    flow = sd.sample(denoiser, sd.RK4("velocity"), x=x, grid=sd.log_snr(SDE, 2000))
    errors = [
        (sd.sample(denoiser, sd.DPMSolverPP(3, published=published), x=x, grid=sd.log_snr(SDE, n)) - flow).norm().item() for n in (256, 512)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2 if published else 3, abs=0.15)


def lagrange(nodes: list[float], j: int, u: float) -> float:
    return math.prod((u - b) / (nodes[j] - b) for k, b in enumerate(nodes) if k != j)


def test_adams_bashforth_in_epsilon_integrates_lagrange_polynomials_in_sigma_over_alpha():
    grid, denoiser, x = sd.karras(SDE, 9), mixture(), start()
    ours = sd.sample(denoiser, sd.AdamsBashforth(4, "epsilon"), x=x, grid=grid)
    rho, y, slopes = [sigma / alpha for alpha, sigma, _ in scales(grid)], x / SDE.alpha(grid[0]), []
    for i in range(9):
        slopes.insert(0, denoiser.eps(y * SDE.alpha(grid[i]), grid[i]))
        nodes = rho[i::-1][:4]
        for j, slope in enumerate(slopes[:4]):
            y = y + quad(lambda u, j=j, nodes=nodes: lagrange(nodes, j, u), rho[i], rho[i + 1])[0] * slope
    torch.testing.assert_close(ours, y * SDE.alpha(grid[-1]), rtol=0, atol=1e-10)


def test_deis_integrates_lagrange_polynomials_in_t():
    grid, denoiser, x = sd.quadratic(SDE, 9), mixture(), start()
    ours = sd.sample(denoiser, sd.DEIS(3), x=x, grid=grid)
    times, y, slopes = grid.tolist(), x / SDE.alpha(grid[0]), []

    def rate(t: float) -> float:  # d(sigma/alpha)/dt = g^2/(2 sigma alpha)
        return (SDE.g(t) ** 2 / (2 * SDE.sigma(t) * SDE.alpha(t))).item()

    for i in range(9):
        slopes.insert(0, denoiser.eps(y * SDE.alpha(grid[i]), grid[i]))
        nodes = times[i::-1][:3]
        for j, slope in enumerate(slopes[:3]):
            weight = quad(lambda t, j=j, nodes=nodes: lagrange(nodes, j, t) * rate(t), times[i], times[i + 1], epsabs=1e-12)[0]
            y = y + weight * slope
    torch.testing.assert_close(ours, y * SDE.alpha(grid[-1]), rtol=0, atol=1e-9)


def test_ipndm_has_the_weights_of_equal_steps():
    grid, denoiser, x = sd.karras(SDE, 9), mixture(), start()
    ours = sd.sample(denoiser, sd.IPNDM(4), x=x, grid=grid)
    weights = [[1], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]
    rho, y, slopes = [sigma / alpha for alpha, sigma, _ in scales(grid)], x / SDE.alpha(grid[0]), []
    for i in range(9):
        slopes.insert(0, denoiser.eps(y * SDE.alpha(grid[i]), grid[i]))
        y = y + (rho[i + 1] - rho[i]) * sum(w * s for w, s in zip(weights[min(i, 3)], slopes, strict=False))
    torch.testing.assert_close(ours, y * SDE.alpha(grid[-1]), rtol=0, atol=1e-11)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_unipc_solves_the_linear_systems_of_its_paper(variant):
    # predictor and corrector as in algorithms 1 and 2 for x0_hat, the corrector's state kept apart
    n, order = 9, 3
    grid, denoiser, x = sd.karras(SDE, n), mixture(), start()
    ours = sd.sample(denoiser, sd.UniPC(order, variant, lower_final=False), x=x, grid=grid)
    s = scales(grid)

    def combine(i: int, points: list[float], differences: list[torch.Tensor], x: torch.Tensor, m0: torch.Tensor) -> torch.Tensor:
        """One step from i to i + 1 with differences (m - m0) at the places `points`, in units of the step."""
        (_, sigma_t, lam_t), (alpha_s, sigma_s, lam_s) = s[i], s[i + 1]
        h = lam_s - lam_t
        B = -h if variant == "bh1" else math.expm1(-h)
        q = len(points)
        new = sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * m0
        if q == 0:
            return new
        if q == 1:
            a = np.array([0.5])
        else:
            phi, factorial, b = math.expm1(-h) / -h - 1, 1, []
            for k in range(1, q + 1):
                factorial *= k
                b.append(phi * factorial / B)
                phi = phi / -h - 1 / (factorial * (k + 1))
            a = np.linalg.solve(np.array([[r**k for r in points] for k in range(q)]), np.array(b))
        return new - alpha_s * B * sum(w * d / r for w, d, r in zip(a.tolist(), differences, points, strict=True))

    def earlier(i: int, q: int) -> tuple[list[float], list[torch.Tensor]]:
        h = s[i + 1][2] - s[i][2]
        return [(s[i - k][2] - s[i][2]) / h for k in range(1, q)], [models[i - k] - models[i] for k in range(1, q)]

    models, corrected = [denoiser(x, grid[0])], x
    for i in range(n):
        q = min(order, i + 1)
        points, differences = earlier(i, q)
        predicted = combine(i, points, differences, corrected, models[i])
        if i == n - 1:
            break
        models.append(denoiser(predicted, grid[i + 1]))
        corrected = combine(i, [*points, 1.0], [*differences, models[i + 1] - models[i]], corrected, models[i])
    torch.testing.assert_close(ours, predicted, rtol=0, atol=1e-11)


# a corrected solver moves the state after the prediction was made; only x0_hat in the form "x0" has no use for the state then
@pytest.mark.parametrize("solver", [s for s in SOLVERS if s.form == "x0" or not s.corrector], ids=str)
@pytest.mark.parametrize("sde", [sd.DDPMChain(sd.linear_betas(50)), sd.VESDE().discretize(50)], ids=lambda s: type(s).__name__)
def test_a_step_to_noise_free_data_is_the_prediction(solver, sde):
    # every solver falls back to first order there, and a first-order step to sigma = 0 is alpha x0_hat
    grid = sd.uniform(sde, 10)
    last = []
    end = sd.sample(
        mixture(sde),
        solver,
        shape=(3, 2),
        grid=grid,
        callback=lambda step: last.append(step.x0_hat),
        generator=torch.Generator().manual_seed(0),
    )
    torch.testing.assert_close(end, last[-1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_grid_shorter_than_the_order_runs_at_lower_order(solver):
    for n in (1, 2):
        assert sd.sample(mixture(), solver, x=start(), grid=sd.log_snr(SDE, n), noise=torch.zeros_like).isfinite().all()
    ddim = sd.sample(mixture(), sd.DDIM(), x=start(), grid=sd.log_snr(SDE, 1))
    if not solver.eta:
        torch.testing.assert_close(sd.sample(mixture(), solver, x=start(), grid=sd.log_snr(SDE, 1)), ddim, rtol=0, atol=1e-12)
