"""The reverse-time process, and that torchsde and scipy take it as it is."""

import math

import numpy as np
import pytest
import torch
import torchsde
from scipy.integrate import solve_ivp

import sde_diffusion as sd

SDES = [sd.VPSDE(), sd.SubVPSDE(), sd.VESDE(0.01, 5.0), sd.DDPMChain(sd.linear_betas(1000))]


def gaussian(sde: sd.AffineSDE) -> sd.GaussianDenoiser:
    """systems.md's bench G1 in one coordinate."""
    return sd.GaussianDenoiser(1.0, 0.5, sde)


def marginal(sde: sd.AffineSDE, t: float) -> tuple[float, float]:
    alpha, sigma = sde.alpha(t).item(), sde.sigma(t).item()
    return alpha, alpha**2 * 0.25 + sigma**2


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
def test_the_drift_is_f_x_minus_half_one_plus_eta_squared_g_squared_score(sde, eta, generator):
    denoiser = sd.GaussianMixtureDenoiser([[1.0, 0.0], [-1.0, 0.5]], 0.3, None, sde)
    x, t = torch.randn(5, 2, generator=generator, dtype=torch.float64), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    f, g = sde.f(t)[:, None], sde.g(t)[:, None]
    expected = f * x - 0.5 * (1 + eta**2) * g**2 * denoiser.score(x, t)
    reverse = sde.reverse(denoiser, eta)
    torch.testing.assert_close(reverse.drift(x, t), expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(reverse.f(1 - t, x), -expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(reverse.g(1 - t, x), (eta * g).expand_as(x), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("sde", SDES[:3], ids=lambda s: type(s).__name__)
def test_every_eta_has_the_same_marginals(sde, eta):
    # The drift is affine for Gaussian data, so mean and variance obey ODEs; their right-hand side is read off f and g at two points.
    reverse, start, end = sde.reverse(gaussian(sde), eta), 0.9, 0.1
    points = torch.tensor([[0.0], [1.0]], dtype=torch.float64)

    def moments(tau, y):
        at_0, at_1 = reverse.f(tau, points)[:, 0].tolist()
        return [(at_1 - at_0) * y[0] + at_0, 2 * (at_1 - at_0) * y[1] + reverse.g(tau, points)[0, 0].item() ** 2]

    solution = solve_ivp(moments, (1 - start, 1 - end), marginal(sde, start), "DOP853", rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(solution.y[:, -1], marginal(sde, end), rtol=1e-8)


@pytest.mark.parametrize(
    ("eta", "mean", "variance"), [(0.0, 0.9967, 0.2500), (0.5, 0.9993, 0.2501), (1.0, 1.0001, 0.2502), (1.5, 1.0001, 0.2503)]
)
def test_larger_eta_forgets_the_error_of_the_prior(eta, mean, variance):
    # systems.md A16: Euler-Maruyama with 4000 steps from N(0, 1), mean and variance propagated exactly
    sde, n = sd.VPSDE(), 4000
    t = torch.linspace(1, 1e-3, n + 1, dtype=torch.float64)[:-1]
    h, reverse = 0.999 / n, sde.reverse(gaussian(sde), eta)
    at_0, at_1 = (reverse.drift(torch.full((n, 1), c, dtype=torch.float64), t)[:, 0].numpy() for c in (0.0, 1.0))
    noise = (reverse.g(1 - t, t[:, None])[:, 0].numpy()) ** 2 * h
    m, v = 0.0, 1.0
    for a, b, q in zip(1 - h * (at_1 - at_0), -h * at_0, noise, strict=True):
        m, v = a * m + b, a**2 * v + q
    assert (m, v) == (pytest.approx(mean, abs=6e-5), pytest.approx(variance, abs=6e-5))


def test_torchsde_integrates_it_as_it_is():
    sde, n = sd.VPSDE(), 4000
    reverse = sde.reverse(sd.GaussianDenoiser([1.0, -1.0], [0.5, 0.2], sde))
    x = sde.prior_sample((n, 2), sd.Stream(torch.Generator().manual_seed(1)))
    ts = torch.tensor([0.0, 1 - 1e-3])
    bm = torchsde.BrownianInterval(0.0, 1.0, size=(n, 2), entropy=3)
    out = torchsde.sdeint(reverse, x, ts, bm=bm, method="euler", dt=1 / 200)[-1]
    assert out.dtype == torch.float32
    # 4 standard errors, and Euler's own bias at 200 steps (systems.md O1: 0.003 in the mean, 0.002 in the variance)
    for column, mean, std in ((0, 1.0, 0.5), (1, -1.0, 0.2)):
        assert out[:, column].mean().item() == pytest.approx(mean, abs=4 * std / math.sqrt(n) + 0.004)
        assert out[:, column].std().item() == pytest.approx(std, abs=4 * std / math.sqrt(2 * n) + 0.01)


def test_torchsde_integrates_images_as_flat_states():
    sde, n, mean = sd.VESDE(0.01, 5.0), 500, torch.linspace(-1, 1, 8).reshape(2, 2, 2)
    denoiser = sd.GaussianDenoiser(mean, 0.3, sde)
    x = sde.prior_sample((n, 8), sd.Stream(torch.Generator().manual_seed(1)))
    bm = torchsde.BrownianInterval(0.0, 1.0, size=(n, 8), entropy=3)
    out = torchsde.sdeint(sde.reverse(denoiser, shape=(-1, 2, 2, 2)), x, torch.tensor([0.0, 1.0]), bm=bm, method="euler", dt=1 / 100)[-1]
    assert out.shape == (n, 8)
    assert (out.mean(0) - mean.flatten()).abs().max().item() < 4 * 0.3 / math.sqrt(n) + 0.02
    assert out.std(0).mean().item() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("sde", SDES[:3], ids=lambda s: type(s).__name__)
def test_scipy_integrates_the_flow_to_its_closed_form(sde, generator):
    # On Gaussian data the flow keeps (x - mean_t)/std_t.
    shape = (3, 2, 2)
    denoiser = sd.GaussianDenoiser(torch.ones(2, 2), 0.5, sde)
    x = sde.prior_std * torch.randn(shape, generator=generator, dtype=torch.float64)
    reverse = sde.reverse(denoiser, eta=0, shape=shape)
    solution = solve_ivp(reverse, (1.0, 0.01), x.flatten().numpy(), rtol=1e-9, atol=1e-10)
    (mean_1, var_1), (mean_0, var_0) = marginal(sde, 1.0), marginal(sde, 0.01)
    expected = mean_0 + math.sqrt(var_0 / var_1) * (x - mean_1)
    np.testing.assert_allclose(solution.y[:, -1], expected.flatten(), rtol=1e-6, atol=1e-7)


def test_the_ode_right_hand_side_is_the_velocity_for_arrays_and_tensors(generator):
    sde = sd.VPSDE()
    denoiser = sd.GaussianMixtureDenoiser([[1.0, 0.0], [-1.0, 0.5]], 0.3, None, sde)
    x = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    v = denoiser.v(x, 0.4)
    torch.testing.assert_close(sde.reverse(denoiser, 0.0)(0.4, x), v, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(sde.reverse(denoiser, 0.0)(np.float64(0.4), x.numpy()), v, rtol=1e-12)
    flat = sde.reverse(denoiser, 0.0, shape=(3, 2))
    np.testing.assert_allclose(flat(0.4, x.flatten().numpy()), v.flatten(), rtol=1e-12)
    torch.testing.assert_close(flat(0.4, x.flatten()), v.flatten(), rtol=1e-12, atol=1e-12)


def test_the_condition_reaches_the_denoiser():
    class Conditional:
        def score(self, x, t, cond=None):
            return cond * torch.ones_like(x)

    sde, x = sd.VESDE(), torch.zeros(1, 1, dtype=torch.float64)
    drift = sde.reverse(Conditional(), 0.0, cond=3.0).drift(x, 0.5)
    assert drift.item() == pytest.approx(-1.5 * sde.g(0.5).item() ** 2, rel=1e-12)


def test_what_makes_no_sense_is_refused():
    sde = sd.VPSDE()
    with pytest.raises(ValueError, match=r"eta must be 0 .* got -1"):
        sde.reverse(gaussian(sde), -1)
    with pytest.raises(ValueError, match=r"eta must be 0 .* got nan"):
        sde.reverse(gaussian(sde), math.nan)
    with pytest.raises(ValueError, match=r"an ODE right-hand side needs eta=0, got eta=1.0; use sde.reverse\(denoiser, eta=0\)"):
        sde.reverse(gaussian(sde))(0.5, np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"a flat state of shape \(4,\) needs .*shape="):
        sde.reverse(gaussian(sde), 0)(0.5, np.zeros(4))
