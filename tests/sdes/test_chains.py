"""DDPM's chain and NCSN's ladder, against recursions written from the papers."""

import math

import numpy as np
import pytest
import torch

import sde_diffusion as sd

BETAS = np.linspace(1e-4, 0.02, 1000)  # Ho et al. 2020, section 4
CHAIN = sd.DDPMChain(sd.linear_betas(1000))
NODES = torch.arange(1001, dtype=torch.float64) / 1000


def test_marginals_and_transitions_are_the_papers_recursion():
    alpha, variance = 1.0, 0.0
    alphas, variances = CHAIN.alpha(NODES).tolist(), (CHAIN.sigma(NODES) ** 2).tolist()
    scales, noises = CHAIN.transition(NODES[:-1], NODES[1:])
    for i, beta in enumerate(BETAS, start=1):
        alpha, variance = math.sqrt(1 - beta) * alpha, (1 - beta) * variance + beta
        assert alphas[i] == pytest.approx(alpha, rel=1e-12)
        assert variances[i] == pytest.approx(variance, rel=1e-12)
    np.testing.assert_allclose(scales, np.sqrt(1 - BETAS), rtol=1e-12)
    np.testing.assert_allclose(noises, BETAS, rtol=1e-11)  # a difference of numbers near 1: 1e-16/1e-4


def test_the_posterior_has_the_papers_coefficients():
    # Ho et al. 2020, eqs 6 and 7
    alpha_bar = np.cumprod(1 - BETAS)
    before = np.concatenate([[1.0], alpha_bar[:-1]])
    posterior = CHAIN.posterior(NODES[:-1], NODES[1:])
    np.testing.assert_allclose(posterior.x0, np.sqrt(before) * BETAS / (1 - alpha_bar), rtol=1e-9)
    np.testing.assert_allclose(posterior.x, np.sqrt(1 - BETAS) * (1 - before) / (1 - alpha_bar), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(posterior.variance, BETAS * (1 - before) / (1 - alpha_bar), rtol=1e-9, atol=1e-15)
    assert posterior.x0[500].item() == pytest.approx(0.003058, abs=5e-7)  # systems.md M16; the seed's formula gives 0.010854


def test_the_end_of_ddpms_chain_is_noise():
    # systems.md A1: alpha_bar_T, its root, and the prior's KL per dimension for data of unit variance and mean 1
    alpha_bar = CHAIN.alpha(1.0).item() ** 2
    assert alpha_bar == pytest.approx(4.0358e-5, abs=5e-10)
    assert math.sqrt(alpha_bar) == pytest.approx(0.00635, abs=5e-6)
    mean, variance = CHAIN.alpha(1.0).item(), alpha_bar + CHAIN.sigma(1.0).item() ** 2
    kl = 0.5 * (mean**2 + variance - 1 - math.log(variance))
    assert kl == pytest.approx(2.0e-5, abs=5e-7)


def test_simulating_the_chain_gives_its_marginals_within_three_standard_errors(generator):
    n, data_mean, data_std = 40_000, 1.0, 0.5
    x = data_mean + data_std * torch.randn(n, generator=generator)
    scales, variances = CHAIN.transition(NODES[:-1], NODES[1:])
    for i, (scale, variance) in enumerate(zip(scales.tolist(), variances.sqrt().tolist(), strict=True), start=1):
        x = scale * x + variance * torch.randn(n, generator=generator)
        if i in (1, 10, 100, 1000):
            alpha, sigma = CHAIN.alpha(i / 1000).item(), CHAIN.sigma(i / 1000).item()
            std = math.hypot(alpha * data_std, sigma)
            assert abs(x.mean().item() - alpha * data_mean) < 3 * std / math.sqrt(n)
            assert abs(x.var().item() - std**2) < 3 * std**2 * math.sqrt(2 / n)


def test_beta_is_a_variance_and_not_a_standard_deviation():
    # systems.md A2 and M27: after 16 steps of beta = 0.1 the noise variance is 0.8147; noise of standard deviation beta gives 0.0815
    right = wrong = 0.0
    for _ in range(16):
        right, wrong = 0.9 * right + 0.1, 0.9 * wrong + 0.1**2
    assert (right, wrong) == (pytest.approx(0.8147, abs=5e-5), pytest.approx(0.0815, abs=5e-5))
    variance = sd.DDPMChain([0.1] * 16).sigma(1.0).item() ** 2
    assert variance == pytest.approx(right, rel=1e-13)
    assert variance != pytest.approx(wrong, rel=0.5)


def test_the_cosine_schedule_has_nichol_and_dhariwals_numbers():
    # systems.md B4
    betas = sd.cosine_betas(1000)
    chain = sd.DDPMChain(betas)
    assert chain.alpha(1.0).item() ** 2 == pytest.approx(2.43e-9, abs=5e-12)
    assert betas[0] == pytest.approx(4.13e-5, abs=5e-8)
    assert chain.alpha(0.5).item() ** 2 == pytest.approx(0.4938, abs=5e-5)
    assert CHAIN.alpha(0.5).item() ** 2 == pytest.approx(0.0786, abs=5e-5)
    assert max(betas) == 0.999
    assert chain == sd.CosineVPSDE().discretize(1000)


def test_the_cosine_chain_has_the_cosine_process_marginals_but_for_the_last():
    chain, sde = sd.CosineVPSDE().discretize(1000), sd.CosineVPSDE()
    torch.testing.assert_close(chain.alpha(NODES[:-1]), sde.alpha(NODES[:-1]), rtol=1e-9, atol=1e-12)


def test_ncsns_ladder_is_data_plus_sigma_noise_at_its_nodes():
    sigmas = (0.05, 0.3, 2.0)
    ladder = sd.NCSNLadder(sigmas)
    assert ladder.sigma(torch.tensor([0, 1, 2, 3], dtype=torch.float64) / 3).tolist() == pytest.approx([0.0, *sigmas], rel=1e-13)
    assert ladder.alpha(0.7).item() == 1
    # Song et al. 2021: x_i = x_{i-1} + sqrt(sigma_i^2 - sigma_{i-1}^2) z
    assert ladder.transition(1 / 3, 2 / 3).variance.item() == pytest.approx(0.3**2 - 0.05**2, rel=1e-13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_node_belongs_to_the_segment_that_ends_there_however_it_was_computed(dtype):
    for n in (2, 3, 7, 49, 100, 999, 1000):
        chain = sd.AffineChain([1.0] * (n + 1), torch.arange(n + 1.0).sqrt().cumsum(0).tolist())
        middle = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        steps = torch.arange(1, n + 1, dtype=dtype)
        for nodes in (
            steps / n,
            torch.linspace(0, 1, n + 1, dtype=dtype)[1:],
            torch.linspace(1, 0, n + 1, dtype=dtype).flip(0)[1:],
            steps * (1 / n),
        ):
            torch.testing.assert_close(chain.g(nodes).double(), chain.g(middle), rtol=1e-6, atol=0)


def test_a_chain_is_its_process_at_the_nodes_to_rounding():
    # i / n in float32, torch's default for integers, once cost 8 of 16 digits here
    np.testing.assert_allclose(CHAIN.alpha(NODES[1:]) ** 2, np.cumprod(1 - BETAS), rtol=1e-13)
    torch.testing.assert_close(CHAIN.t_of_log_snr(CHAIN.log_snr(NODES[1:])), NODES[1:], rtol=0, atol=1e-12)


def test_a_chain_of_its_marginals_is_the_same_process():
    chain = sd.DDPMChain(sd.linear_betas(20, 0.01, 0.4))
    copy = chain.discretize(20)
    t = torch.linspace(0, 1, 77, dtype=torch.float64)
    for name in ("alpha", "sigma", "f", "g"):
        torch.testing.assert_close(getattr(copy, name)(t), getattr(chain, name)(t), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sd.DDPMChain([0.1, 1.0]), r"betas must lie in \(0, 1\), got beta_2=1.0"),
        (lambda: sd.DDPMChain([0.0, 0.1]), r"betas must lie in \(0, 1\), got beta_1=0.0"),
        (lambda: sd.DDPMChain([0.1]), "betas must be at least 2 finite numbers"),
        (lambda: sd.DDPMChain([0.1, math.nan]), "betas must be at least 2 finite numbers"),
        (lambda: sd.NCSNLadder([3.0, 1.0]), r"sigmas must increase, got sigmas\[0\]=3.0, sigmas\[1\]=1.0; pass sigmas\[::-1\]\?"),
        (lambda: sd.NCSNLadder([0.0, 1.0]), r"sigmas must be positive, got sigmas\[0\]=0.0"),
        (lambda: sd.AffineChain([1.0, 0.5], [0.0, 0.5, 1.0]), "alphas and sigmas must be as many, got 2 and 3"),
        (lambda: sd.AffineChain([1.0, 0.0], [0.0, 1.0]), "alphas must be positive, got 0.0"),
        (lambda: sd.AffineChain([1.0, 1.0], [-1.0, 1.0]), "sigmas must not be negative, got -1.0"),
        (lambda: sd.AffineChain([1.0, 0.5, 0.5], [0.0, 1.0, 0.9]), "sigma/alpha must increase, got 2.0 at node 1 and 1.8 at node 2"),
    ],
)
def test_what_is_no_chain_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
