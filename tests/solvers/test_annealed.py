"""Rows A11, A12, C1 and C2: annealed Langevin dynamics and its consistent form, on mixtures and exactly on data that are a point."""

import math

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.evaluation.gaussian_law import gaussian_law, marginal
from sde_diffusion.sdes.chains import ncsnv2_sigmas
from sde_diffusion.solvers.annealed import ConsistentAnnealed, ncsnv2_epsilon

NCSNV2 = sd.NCSNLadder(sd.geometric_sigmas(232))  # 50 -> 0.01, Song & Ermon 2020


def test_annealed_langevin_finds_the_mode_weights_that_plain_langevin_misses():
    # row A11: 1/5 N((-5,-5), I) + 4/5 N((5,5), I), from U[-8, 8]^2; .489 plain and .217 annealed in the small mode, truth .200
    levels = sd.NCSNLadder(sd.geometric_sigmas(10, 1.0, 20.0))
    denoiser = sd.GaussianMixtureDenoiser([[-5.0, -5.0], [5.0, 5.0]], 1.0, [0.2, 0.8], levels)
    generator = torch.Generator().manual_seed(0)
    x = 16 * torch.rand(1000, 2, generator=generator, dtype=torch.float64) - 8

    def small_mode(x: torch.Tensor) -> float:
        return (x.sum(1) < 0).double().mean().item()

    annealed = sd.sample(denoiser, sd.AnnealedLangevin(epsilon=0.05, steps=100), x=x, generator=generator)
    last_level = torch.tensor([0.1, 0.1 - 1e-9], dtype=torch.float64)
    plain = sd.sample(denoiser, sd.Langevin(snr=(0.05 / 2) ** 0.5, steps=1000), x=x, grid=last_level, generator=generator)
    assert small_mode(annealed) == pytest.approx(0.217, abs=0.04)  # three standard errors
    assert small_mode(plain) == pytest.approx(0.489, abs=0.05)


def test_annealed_langevin_is_the_same_under_every_process():
    # The moves happen in x/alpha: on VP and on its VE image the same noise gives the same path.
    vp = sd.GaussianMixtureDenoiser([[1.0, 0.0], [-1.0, 0.0]], 0.2, None, sd.VPSDE())
    grid = sd.log_snr(vp.sde, 6)
    ve = vp.under(sd.VESDE(sigma_min=0.005, sigma_max=200.0))
    ve_grid = ve.sde.t_of_log_snr(vp.sde.log_snr(grid))
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    solver = sd.AnnealedLangevin(epsilon=1e-5, steps=4)
    a = sd.sample(vp, solver, x=x, grid=grid, seeds=range(5)) / vp.sde.alpha(grid[-1])
    b = sd.sample(ve, solver, x=x / vp.sde.alpha(grid[0]), grid=ve_grid, seeds=range(5))
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_on_a_ladder_annealed_langevin_ends_with_the_denoised_state():
    ladder = sd.NCSNLadder((0.1, 0.5, 1.0))
    table = sd.AnnealedLangevin(steps=2).tableau(ladder, sd.uniform(ladder, 3))
    assert len(table) == 7
    assert (table.x[-1].item(), table.p[-1].item(), table.noise[-1].item(), table.ends[-1].item()) == (0, 1, 0, 0)
    torch.testing.assert_close(table.t * 3, torch.tensor([3, 3, 2, 2, 1, 1, 1], dtype=torch.float64))


def std_at_the_last_level(solver: sd.Solver, without: int) -> float:
    """Exact std/sigma_L of what a solver makes of N(0, sigma_1^2) on data that are a point, `without` its last rows."""
    table = solver.tableau(NCSNV2, sd.uniform(NCSNV2, 232))
    _, variance = gaussian_law(table[:-without], sd.GaussianDenoiser(0.0, 0.0, NCSNV2), mean=0.0, std=50.0)
    return variance.sqrt().item() / 0.01


def test_consistent_annealing_arrives_with_the_noise_of_the_level_and_langevin_with_too_much():
    # row C2; without x0_hat, and CAS without its noiseless move. One move (1) per level has the fixed point
    # r = 2 eta/(1 - ((1 - eta)/gamma)^2) = 1.8754^2, which 232 levels approach from 1.
    assert std_at_the_last_level(ConsistentAnnealed(5e-6), 2) == pytest.approx(1, abs=1e-12)
    assert std_at_the_last_level(sd.AnnealedLangevin(5e-6, 1), 1) == pytest.approx(1.875, abs=1e-3)
    assert std_at_the_last_level(sd.AnnealedLangevin(6.2e-6, 5), 1) == pytest.approx(1.062, abs=5e-4)


@pytest.mark.parametrize("sde", [sd.VPSDE(), sd.SubVPSDE(), sd.VESDE(), sd.RectifiedFlow()], ids=type)
def test_consistent_annealing_has_the_marginals_of_a_point_under_every_process(sde):
    grid = sd.log_snr(sde, 300)
    rho = sde.sigma(grid) / sde.alpha(grid)
    epsilon = 0.3 * rho[-2].item() ** 2
    denoiser = sd.GaussianDenoiser(2.0, 0.0, sde)
    mean, std = marginal(denoiser, float(grid[0]))
    got, variance = gaussian_law(ConsistentAnnealed(epsilon).tableau(sde, grid), denoiser, mean=mean, std=std)
    truth, deviation = marginal(denoiser, float(grid[-1]))
    torch.testing.assert_close(got, truth, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(variance.sqrt(), deviation, rtol=1e-9, atol=0)


@pytest.mark.parametrize("sde", [sd.VPSDE(), sd.VESDE(t_min=0.0)], ids=type)
def test_consistent_annealing_with_eta_of_1_minus_gamma_squared_is_the_ancestral_sampler(sde):
    grid = sd.log_snr(sde, 20) if sde.t_min else sd.uniform(sde, 20)  # both geometric in sigma/alpha
    rho = sde.sigma(grid) / sde.alpha(grid)
    gamma = rho[-1] / rho[-2]
    a = ConsistentAnnealed(((1 - gamma**2) * rho[-2] ** 2).item()).tableau(sde, grid)
    b = sd.Ancestral().tableau(sde, grid)
    for name in ("x", "p", "noise", "ends"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-7, atol=1e-9)


def test_on_a_ladder_consistent_annealing_is_the_papers_algorithm():
    # Jolicoeur-Martineau et al. 2020, transcribed: levels from the largest, no noise after the last, then x + sigma_L^2 score
    sigmas, epsilon = (0.1, 0.13, 0.17), 0.005
    ladder = sd.NCSNLadder(sigmas)
    denoiser = sd.GaussianMixtureDenoiser([[1.0], [-1.0]], 0.2, None, ladder)
    x = torch.randn(4, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise, replay = sd.PerSample(range(4)), sd.PerSample(range(4))
    got = sd.sample(denoiser, ConsistentAnnealed(epsilon), x=x, grid=sd.uniform(ladder, 3), noise=noise)
    eta = epsilon / sigmas[0] ** 2
    for i in (2, 1, 0):
        t = (i + 1) / 3
        x = x + eta * sigmas[i] ** 2 * denoiser.score(x, t)
        if i:
            gamma = sigmas[i - 1] / sigmas[i]
            x = x + sigmas[i - 1] * math.sqrt(1 - ((1 - eta) / gamma) ** 2) * replay(x)
    x = x + sigmas[0] ** 2 * denoiser.score(x, 1 / 3)
    torch.testing.assert_close(got, x, rtol=1e-10, atol=1e-10)


def test_a_step_outside_the_consistent_range_is_refused_and_the_range_told():
    # sigma_L^2 (1 - gamma) < epsilon < sigma_L^2 (1 + gamma), gamma = (0.01/50)^(1/231)
    gamma = (0.01 / 50) ** (1 / 231)
    low, high = 1e-4 * (1 - gamma), 1e-4 * (1 + gamma)
    grid = sd.uniform(NCSNV2, 232)
    for epsilon in (0.99 * low, 1.01 * high):
        with pytest.raises(ValueError, match=f"between {low:.4g} and {high:.4g}"):
            ConsistentAnnealed(epsilon).tableau(NCSNV2, grid)
    for epsilon in (1.01 * low, 0.99 * high):
        assert ConsistentAnnealed(epsilon).tableau(NCSNV2, grid).noise.isfinite().all()


def test_the_second_papers_step_is_the_papers():
    # row C1: 6.2e-6 in the paper's table for 232 levels from 50 to 0.01 and 5 moves
    assert ncsnv2_epsilon(NCSNV2.sigmas, 5) == pytest.approx(6.18e-6, abs=5e-9)


def test_the_second_papers_step_is_the_best_there_is():
    # the variance that T moves make of the last level's, by gaussian_law: nearest to 1 at the chosen step; T = 1 in closed form
    gamma = (50 / 0.01) ** (1 / 231)
    assert ncsnv2_epsilon(NCSNV2.sigmas, 1) == pytest.approx(1e-4 * (1 - gamma**-2), rel=1e-6)
    denoiser, grid = sd.GaussianDenoiser(0.0, 0.0, NCSNV2), torch.tensor([2 / 232, 1 / 232], dtype=torch.float64)
    sigma = NCSNV2.sigma(grid[0]).item()

    def excess(eta: float) -> float:
        table = sd.AnnealedLangevin(eta * sigma**2, 5).tableau(NCSNV2, grid)
        return abs(gaussian_law(table, denoiser, mean=0.0, std=gamma * sigma)[1].item() / sigma**2 - 1)

    best = ncsnv2_epsilon(NCSNV2.sigmas, 5) / 1e-4
    assert excess(best) < min(excess(eta) for eta in torch.linspace(0.001, 0.999, 200).tolist())
    assert excess(best) < min(excess(0.999 * best), excess(1.001 * best))


def test_the_second_papers_recipe_samples_a_mixture():
    # 8 modes in 64 dimensions: techniques 1, 2 and 4 make a sampler without a number chosen by hand
    means = 2 * torch.eye(8, 64, dtype=torch.float64)
    sigmas = ncsnv2_sigmas(64, 0.02, math.sqrt(8))
    denoiser = sd.GaussianMixtureDenoiser(means, 0.05, None, sd.NCSNLadder(sigmas))
    solver = sd.AnnealedLangevin(ncsnv2_epsilon(sigmas, 5), 5)
    x = sd.sample(denoiser, solver, shape=(2000, 64), steps=len(sigmas), generator=torch.Generator().manual_seed(0))
    nearest = torch.cdist(x.double(), means)
    counts = torch.bincount(nearest.argmin(1), minlength=8).double()
    assert ((counts - 250) ** 2 / 250).sum() < 18.5  # 99 % of chi-square with 7 degrees of freedom
    within = nearest.min(1).values / 8
    assert within.mean() == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("sigmas", [(1.0,), (2.0, 1.0), (0.1, 0.2, 0.3), (0.0, 1.0)], ids=str)
def test_levels_that_are_not_a_progression_are_refused(sigmas):
    with pytest.raises(ValueError, match="geometric progression"):
        ncsnv2_epsilon(sigmas, 5)


def test_the_new_names_are_expressions():
    names = {"ConsistentAnnealed": ConsistentAnnealed, "AnnealedLangevin": sd.AnnealedLangevin}
    names |= {"ncsnv2_epsilon": ncsnv2_epsilon, "ncsnv2_sigmas": ncsnv2_sigmas}
    assert sd.build(repr(ConsistentAnnealed(5e-6)), names) == ConsistentAnnealed(5e-6)
    built = sd.build("AnnealedLangevin(ncsnv2_epsilon(ncsnv2_sigmas(64), 5), 5)", names)
    assert sd.build(repr(built), names) == built
