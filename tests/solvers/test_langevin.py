"""Rows A7 and A20: Langevin moves against their exact stationary law and the paper's formula."""

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.evaluation.gaussian_law import gaussian_law
from sde_diffusion.solvers.base import run


@pytest.mark.parametrize(("gamma", "variance"), [(0.1, 1.0256), (0.5, 1.1429), (1.0, 1.3333)])
def test_the_stationary_variance_of_unadjusted_langevin_is_1_over_1_minus_gamma_over_4(gamma, variance):
    # Data N(0, s^2) with alpha^2 s^2 + sigma^2 = 1 at t: the score is -x, and e = 2 (snr sigma)^2 = gamma/2.
    sde = sd.VPSDE()
    t = torch.tensor([0.5, 0.5 - 1e-12], dtype=torch.float64)
    snr = (gamma / 4) ** 0.5 / sde.sigma(0.5).item()
    denoiser = sd.GaussianDenoiser(0.0, 1.0, sde)
    table = sd.Langevin(snr=snr, steps=400).tableau(sde, t)
    _, got = gaussian_law(table, denoiser, mean=0.0, std=3.0)
    assert got.item() == pytest.approx(1 / (1 - gamma / 4), rel=1e-6)
    assert got.item() == pytest.approx(variance, abs=5e-5)


def test_without_noise_langevin_moves_collapse():
    denoiser = sd.GaussianDenoiser(0.0, 1.0, sd.VPSDE())
    x = torch.randn(100, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([0.5, 0.5 - 1e-12], dtype=torch.float64)
    assert sd.sample(denoiser, sd.Langevin(snr=0.5, steps=200), x=x, grid=t, noise=torch.zeros_like).std() < 1e-6


def test_langevin_with_the_expected_norm_is_its_table():
    denoiser = sd.GaussianMixtureDenoiser([[1.0], [-1.0]], 0.2, None, sd.VPSDE())
    grid = sd.uniform(denoiser.sde, 4)
    x = torch.randn(6, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    solver = sd.Langevin(snr=0.2, steps=3)
    *_, table = run(solver.tableau(denoiser.sde, grid), denoiser, x, sd.PerSample(range(6)))
    loop = sd.sample(denoiser, solver, x=x, grid=grid, seeds=range(6))
    torch.testing.assert_close(table.x, loop, rtol=1e-12, atol=1e-12)


def test_the_corrector_alone_moves_by_the_formula():
    # Song et al. 2021, algorithm 5, transcribed: one batch, one level
    denoiser = sd.GaussianMixtureDenoiser([[1.0, 0.0], [-1.0, 1.0]], 0.5, None, sd.VESDE())
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = 0.4
    score = denoiser.score(x, t)
    step = 2 * (0.16 * z.norm(dim=1).mean() / score.norm(dim=1).mean()) ** 2
    expected = x + step * score + (2 * step).sqrt() * z
    correct = sd.Langevin(0.16, norm="batch").corrector(denoiser, x, torch.tensor([t], dtype=torch.float64), sd.Replay([z]))
    got, calls = correct(x, t)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    assert calls == 1
