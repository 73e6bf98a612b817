"""The terms of the variational bound against torch's divergences, and the decoders against sums over all values."""

import math

import pytest
import scipy.special
import torch
from torch.distributions import Normal, kl_divergence

import sde_diffusion as sd
from sde_diffusion.losses.decoders import DiscretizedDecoder, GaussianDecoder, SoftmaxDecoder
from sde_diffusion.losses.variational import (
    on_nodes,
    prior_divergence,
    reconstruction,
    step_divergence,
)

PROCESSES = [sd.VPSDE(), sd.SubVPSDE(), sd.VESDE(), sd.EDMSDE(), sd.RectifiedFlow(), sd.DDPMChain(sd.linear_betas(100))]
DECODERS = [DiscretizedDecoder(0.25), SoftmaxDecoder(0.25)]


def batch(b: int = 5, d: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(b, d, generator=generator, dtype=torch.float64) for _ in range(3)]


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_the_prior_term_is_the_divergence_of_the_noised_data_from_the_prior(sde):
    x0, _, _ = batch()
    kernel = Normal(sde.alpha(sde.t_max) * x0, sde.sigma(sde.t_max))
    expected = kl_divergence(kernel, Normal(torch.zeros_like(x0), sde.prior_std)).sum(1)
    torch.testing.assert_close(prior_divergence(sde, x0), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("variance", ["posterior", "forward", "learned", lambda sde, t, s: 0.3 * sde.transition(s, t).variance])
@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_a_step_is_the_divergence_of_two_gaussians(sde, variance):
    x0, x, x0_hat = batch()
    t = torch.tensor([0.9, 0.5, 0.2, 0.1, 0.02], dtype=torch.float64)
    s = t / 2
    v = torch.rand(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    w_x, w_0, low = (a[:, None] for a in sde.posterior(s, t))
    high = sde.transition(s, t).variance[:, None]
    c2 = {"posterior": low, "forward": high, "learned": high**v * low ** (1 - v)}.get(variance, 0.3 * high)
    expected = kl_divergence(Normal(w_x * x + w_0 * x0, low.sqrt()), Normal(w_x * x + w_0 * x0_hat, c2.sqrt())).sum(1)
    torch.testing.assert_close(step_divergence(sde, x0, x0_hat, t, s, variance=variance, v=v), expected, rtol=1e-8, atol=1e-12)


def test_a_step_keeps_its_digits_however_short_it_is():
    # kappa -> SNR g^2/sigma^2 h; log-SNRs of size 1 that are 5e-9 apart have a relative error of 1e-7
    sde, h = sd.VPSDE(), 1e-9
    x0, _, x0_hat = batch()
    t = torch.full((5,), 0.5, dtype=torch.float64)
    rate = (sde.alpha(t) * sde.g(t) / sde.sigma(t) ** 2) ** 2
    expected = 0.5 * rate * h * ((x0 - x0_hat) ** 2).sum(1)
    for variance in ("posterior", "forward"):
        torch.testing.assert_close(step_divergence(sde, x0, x0_hat, t, t - h, variance=variance), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("std", [1e-3, 0.03, 0.3, 3.0])
def test_the_probabilities_of_all_values_sum_to_one(decoder, std):
    values = torch.linspace(-1, 1, 9, dtype=torch.float64)
    for mean in (-1.5, -1.0, -0.13, 0.0, 0.125, 0.7, 1.0, 2.0):
        nats = decoder.nats(values[:, None], torch.full((9, 1), mean, dtype=torch.float64), torch.tensor(2 * math.log(std)))
        assert nats.isfinite().all()
        assert torch.exp(-nats).sum().item() == pytest.approx(1, abs=1e-12)


def test_the_discretized_decoder_is_a_difference_of_distribution_functions():
    # scipy's log_ndtr of the nearer edge alone, where the other is 1e-100 of it
    decoder, c = DiscretizedDecoder(0.25), 0.01
    log_variance = torch.tensor(2 * math.log(c), dtype=torch.float64)

    def nats(x: float, mean: float) -> float:
        return decoder.nats(*(torch.tensor([[a]], dtype=torch.float64) for a in (x, mean)), log_variance).item()

    for x, mean in ((1.0, -1.0), (-1.0, 1.0), (0.25, -0.5), (-0.25, 0.5)):
        assert nats(x, mean) == pytest.approx(-scipy.special.log_ndtr(-(abs(x - mean) - 0.125) / c), rel=1e-12)
    # (0.25 +- 0.125 - 0.115)/0.01 = 26 and 1
    assert nats(0.25, 0.115) == pytest.approx(-math.log(scipy.special.ndtr(26.0) - scipy.special.ndtr(1.0)), rel=1e-12)


def test_narrow_bins_have_width_times_density():
    decoder, x0, mean = DiscretizedDecoder(2 / 2048), torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), 7.0, dtype=torch.float64)
    nats = decoder.nats(x0, mean, torch.zeros((), dtype=torch.float64)).item()
    # phi's mean over a bin is phi (1 + (z^2 - 1) w^2/24 + ...)
    assert nats == pytest.approx(49 / 2 + math.log(2 * math.pi) / 2 - math.log(2 / 2048) - 48 * (2 / 2048) ** 2 / 24, rel=1e-11)


@pytest.mark.parametrize("decoder", [*DECODERS, GaussianDecoder()], ids=lambda d: type(d).__name__)
def test_decoders_have_finite_gradients_at_the_edges_and_far_out(decoder):
    values = torch.tensor([[-1.0], [-0.75], [0.0], [1.0]], dtype=torch.float64)
    for shift in (-30.0, -0.1, 0.0, 30.0):
        mean = (values + shift).requires_grad_()
        log_variance = torch.full((4, 1), 2 * math.log(0.05), dtype=torch.float64, requires_grad=True)
        decoder.nats(values, mean, log_variance).sum().backward()
        assert mean.grad.isfinite().all()
        assert log_variance.grad.isfinite().all()


def test_the_decoder_takes_its_variance_from_the_second_step_from_the_noise_or_from_the_network():
    # DDPM's chain: beta_1 = 1e-4, and c_0^2 of the second step is beta_2 (1 - abar_1)/(1 - abar_2)
    chain = sd.DDPMChain(sd.linear_betas(1000))
    beta_1, beta_2 = chain.betas[:2]
    second = beta_2 * beta_1 / (1 - (1 - beta_1) * (1 - beta_2))
    x0 = torch.tensor([[0.25]], dtype=torch.float64)
    x, x0_hat, t = x0 + 0.012, x0 + 0.003, torch.tensor([1e-3], dtype=torch.float64)

    def nats(decoder, variance="posterior", v=None):
        return reconstruction(chain, x0, x, x0_hat, t, 2 * t, decoder=decoder, variance=variance, v=v).item()

    def density(c2, error=0.003):
        return 0.5 * (error**2 / c2 + math.log(2 * math.pi * c2))

    assert nats(GaussianDecoder()) == pytest.approx(density(beta_1 / (1 - beta_1)), rel=1e-9)
    assert nats(GaussianDecoder(), lambda sde, t, s: torch.full_like(t, 4.0)) == pytest.approx(density(4.0), rel=1e-9)
    for v in (0.0, 0.3, 1.0):
        learned = nats(GaussianDecoder(), "learned", torch.full_like(x0, v))
        assert learned == pytest.approx(density(beta_1**v * second ** (1 - v)), rel=1e-9)
    narrow = DiscretizedDecoder(2 / 4096)
    assert nats(narrow) == pytest.approx(density(second) - math.log(2 / 4096), rel=1e-3)
    state = nats(SoftmaxDecoder(2 / 4096))
    assert state == pytest.approx(density(beta_1 / (1 - beta_1), 0.012 / math.sqrt(1 - beta_1)) - math.log(2 / 4096), rel=2e-2)


def test_nodes_are_found_in_float32_too():
    chain = sd.DDPMChain(sd.linear_betas(4000))
    expected = torch.arange(1, 4001, dtype=torch.float64) / 4000
    torch.testing.assert_close(on_nodes(chain, expected.float()), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DiscretizedDecoder(0.3), "6.66667 bins of 0.3, not a whole number; pass the distance"),
        (lambda: DiscretizedDecoder(-0.25), "width must be a positive number, got -0.25"),
        (lambda: SoftmaxDecoder(0.25, 1.0, -1.0), "low must be less than high"),
        (
            lambda: DiscretizedDecoder(0.25).index(torch.tensor([[0.1]])),
            "0.1 is none of the 9 values -1, -0.75, ..., 1; pass the width, low and high of the data, or GaussianDecoder",
        ),
        (lambda: SoftmaxDecoder(0.25).index(torch.tensor([[1.25]])), "1.25 is none of the 9 values"),
        (lambda: on_nodes(sd.DDPMChain(sd.linear_betas(10)), torch.tensor([0.1, 0.25])), "t=0.25 is no node 1/10, ..., 1 of the chain"),
        (lambda: on_nodes(sd.VPSDE(), torch.tensor([0.1])), r"use sde.discretize\(n\)"),
    ],
)
def test_wrong_terms_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
