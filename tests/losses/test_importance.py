"""Importance-sampled times against quadrature: the integral stays, its variance falls (Song et al. 2021, arXiv 2101.09258)."""

import math

import numpy as np
import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.losses.times import LikelihoodTimes
from sde_diffusion.losses.weightings import SigmoidWeighting


def hermite(n):
    """Nodes z and weights of E f(z), z ~ N(0, 1)."""
    z, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(n))
    return z, w / w.sum()


def legendre(n):
    """Nodes u and weights of the integral over [0, 1]."""
    u, w = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(n))
    return (u + 1) / 2, w / 2


def moments(loss, denoiser, x0, eps, p, t):
    """First and second moment of a loss given each of the times t, by a quadrature of weights p over x0 and eps."""
    values = torch.stack([loss(denoiser, x0, t=s, eps=eps) for s in t])
    return values @ p, values**2 @ p


def m1(nodes):
    """systems.md's M1 under VP: its exact denoiser, and nodes x0, eps (m, 1) with their weights."""
    z, w = hermite(nodes)
    x0, w0 = torch.cat([-1 + 0.1 * z, 1 + 0.1 * z]), torch.cat([w, w]) / 2
    grid = torch.cartesian_prod(x0, z)
    denoiser = sd.GaussianMixtureDenoiser([[-1.0], [1.0]], 0.1, None, sd.VPSDE())
    return denoiser, grid[:, :1], grid[:, 1:], torch.cartesian_prod(w0, w).prod(1)


@pytest.mark.parametrize(
    ("t_min", "mean", "uniform", "importance"), [(1e-3, 2.95372, 31.0615, 8.01736), (1e-5, 5.29785, 275.323, 12.10593)]
)
def test_the_likelihoods_loss_of_m1_has_systems_c4s_variances(t_min, mean, uniform, importance):
    # C4 says mean 2.95 and 5.29, deviations 31.4 and 8.0, 271 and 12.1, to within 2 %: this quadrature (Gauss-Hermite over the data and
    # the noise, Gauss-Legendre over log-SNR) has no sampling error, and doubling its nodes changes nothing by 1e-6.
    # Uniform times' moments are integrals over the same log-SNR, of density q against q_uniform.
    denoiser, x0, eps, p = m1(30)
    likelihood = sd.LikelihoodWeighting()
    laws = {law: sd.DenoisingScoreMatching(likelihood, law, unbiased=True) for law in (LikelihoodTimes(t_min), sd.UniformTimes(t_min))}
    u, w = legendre(120)
    t = LikelihoodTimes(t_min).quantile(denoiser.sde, u)
    found = []
    for law, loss in laws.items():
        ratio = law.density(denoiser.sde, t) / LikelihoodTimes(t_min).density(denoiser.sde, t)
        first, second = moments(loss, denoiser, x0, eps, p, t)
        average = (w * ratio * first).sum().item() / 2  # C4's is the bound in nats: d/2 of the loss, with d = 1
        assert average == pytest.approx(mean, rel=1e-5)
        found.append(math.sqrt((w * ratio * second).sum().item() / 4 - average**2))
    assert found == pytest.approx([importance, uniform], rel=1e-5)
    assert (found[1] / found[0]) ** 2 > (15 if t_min == 1e-3 else 500)


SDES = [sd.VPSDE(), sd.SubVPSDE(), sd.VESDE(0.01, 5.0), sd.RectifiedFlow(), sd.CosineVPSDE()]


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("weighting", [sd.SimpleWeighting(), sd.LikelihoodWeighting(), SigmoidWeighting()], ids=lambda o: type(o).__name__)
def test_the_mean_of_an_unbiased_loss_is_the_integral_over_time_whatever_the_law(sde, weighting):
    # N(0, 1/4) data: E |x0_hat - x0|^2 is s^2 sigma^2/(alpha^2 s^2 + sigma^2), and 3 Gauss-Hermite nodes are exact
    denoiser = sd.GaussianDenoiser(0.0, 0.5, sde)
    z, w = hermite(3)
    grid, p = torch.cartesian_prod(0.5 * z, z), torch.cartesian_prod(w, w).prod(1)
    u, share = legendre(400)
    t = LikelihoodTimes(1e-3).quantile(sde, u)  # a fine grid for the integral over t: dt = du / density
    t_weight = share / LikelihoodTimes(1e-3).density(sde, t)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    integral = (t_weight * weighting(sde, t) * 0.25 * sigma**2 / (0.25 * alpha**2 + sigma**2)).sum().item()
    for law in (sd.UniformTimes(1e-3), LikelihoodTimes(1e-3)):
        loss = sd.DenoisingScoreMatching(weighting, law, unbiased=True)
        # the mean over the law, by its own quantiles: smooth in u only by a substitution u = v^4 that crowds them near the data
        nodes, drawn = law.quantile(sde, u**4), share * 4 * u**3
        mean, _ = moments(loss, denoiser, grid[:, :1], grid[:, 1:], p, nodes)
        assert (drawn * mean).sum().item() == pytest.approx(integral, rel=1e-6)


def test_log_normal_times_divided_out_give_the_integral_too():
    # the quantile's own variable y, u = Phi(y), runs to where the law moves its draws to the ends; those count as nothing
    sde = sd.EDMSDE()
    denoiser, law = sd.GaussianDenoiser(0.0, 0.5, sde), sd.LogNormalTimes(-0.5, 1.5)
    z, w = hermite(3)
    grid, p = torch.cartesian_prod(0.5 * z, z), torch.cartesian_prod(w, w).prod(1)
    v, share = legendre(600)
    low, high = ((math.log(sigma) + 0.5) / 1.5 for sigma in (0.002, 80.0))
    y = low + (high - low) * v
    drawn = (high - low) * share * torch.exp(-0.5 * y**2) / math.sqrt(2 * math.pi)
    loss = sd.DenoisingScoreMatching(SigmoidWeighting(), law, unbiased=True)
    mean, _ = moments(loss, denoiser, grid[:, :1], grid[:, 1:], p, law.quantile(sde, torch.special.ndtr(y)))
    t = LikelihoodTimes(0.0).quantile(sde, v)
    simple, _ = moments(sd.DenoisingScoreMatching(SigmoidWeighting()), denoiser, grid[:, :1], grid[:, 1:], p, t)
    integral = (share / LikelihoodTimes(0.0).density(sde, t) * simple).sum().item()
    assert (drawn * mean).sum().item() == pytest.approx(integral, rel=1e-8)


def test_a_chains_loss_is_the_same_with_its_density_divided_out():
    sde, x0 = sd.DDPMChain(sd.linear_betas(100)), torch.ones(8, 2)
    denoiser = sd.GaussianDenoiser(torch.zeros(2), 0.5, sde)
    plain, divided = (sd.DenoisingScoreMatching(times=sd.ChainTimes(), unbiased=b)(denoiser, x0, seeds=range(8)) for b in (False, True))
    assert torch.equal(plain, divided)


def test_the_errors_of_the_noise_that_likelihood_times_leave_are_weighted_by_z():
    # C4: the loss is then Z |eps_hat - eps|^2, whatever t
    sde, x0, eps = sd.VPSDE(), torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), 0.3, dtype=torch.float64)
    denoiser = sd.GaussianDenoiser(0.0, 0.5, sde)
    loss = sd.DenoisingScoreMatching(sd.LikelihoodWeighting(), LikelihoodTimes(1e-5), unbiased=True)
    for t in (1e-4, 0.1, 0.9):
        error = (denoiser.eps(sde.perturb(x0, t, eps), t) - eps) ** 2
        assert loss(denoiser, x0, t=t, eps=eps).item() == pytest.approx(23.86447 * error.item(), rel=1e-6)
