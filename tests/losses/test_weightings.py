import math

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.losses import weightings
from sde_diffusion.losses.weightings import MinSNRWeighting, P2Weighting, SigmoidWeighting, SoftMinSNRWeighting, VWeighting

T = torch.linspace(0.05, 0.9, 9, dtype=torch.float64)
SDES = [sd.VPSDE(), sd.SubVPSDE(), sd.VESDE(), sd.EDMSDE(), sd.RectifiedFlow(), sd.DDPMChain(sd.linear_betas(100))]
each_sde = pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)


@each_sde
def test_simple_weighting_is_the_signal_to_noise_ratio(sde):
    torch.testing.assert_close(sd.SimpleWeighting()(sde, T), torch.exp(2 * sde.log_snr(T)), rtol=1e-11, atol=0)


@each_sde
def test_likelihood_weighting_counts_score_errors_by_g_squared(sde):
    # an error of x0_hat is an error of the score times sigma^2/alpha
    torch.testing.assert_close(
        sd.LikelihoodWeighting()(sde, T) * (sde.sigma(T) ** 2 / sde.alpha(T)) ** 2, sde.g(T) ** 2, rtol=1e-11, atol=0
    )


@each_sde
def test_likelihood_weighting_is_minus_the_rate_of_the_signal_to_noise_ratio(sde):
    # Kingma et al. 2021: the bound weighs |x0_hat - x0|^2 by -d(alpha^2/sigma^2)/dt
    t = T.clone().requires_grad_()
    (rate,) = torch.autograd.grad(((sde.alpha(t) / sde.sigma(t)) ** 2).sum(), t)
    torch.testing.assert_close(sd.LikelihoodWeighting()(sde, T), -rate, rtol=1e-9, atol=0)


@each_sde
def test_edm_weighting_is_one_over_c_out_squared(sde):
    c_out = sd.EDM(0.7).scalings(sde, T).c_out
    torch.testing.assert_close(sd.EDMWeighting(0.7)(sde, T) * c_out**2, torch.ones_like(T), rtol=1e-12, atol=0)


@each_sde
def test_constant_weighting_is_one(sde):
    assert sd.ConstantWeighting()(sde, T).tolist() == [1.0] * 9


def test_edm_weighting_refuses_data_without_spread():
    with pytest.raises(ValueError, match="sigma_data must be a positive number, got 0"):
        sd.EDMWeighting(0.0)


def noise_and_estimate(sde):
    """alpha, sigma (9, 1), x0, eps, a wrong x0_hat and the eps_hat that it implies."""
    generator = torch.Generator().manual_seed(0)
    x0, eps, x0_hat = torch.randn(3, 9, 4, generator=generator, dtype=torch.float64)
    alpha, sigma = sde.alpha(T)[:, None], sde.sigma(T)[:, None]
    return alpha, sigma, x0, eps, x0_hat, (alpha * x0 + sigma * eps - alpha * x0_hat) / sigma


@each_sde
def test_v_weighting_is_the_error_of_v_written_out(sde):
    alpha, sigma, x0, eps, x0_hat, eps_hat = noise_and_estimate(sde)
    power = (alpha**2 + sigma**2).sqrt()
    v, v_hat = (alpha * eps - sigma * x0) / power, (alpha * eps_hat - sigma * x0_hat) / power
    ours = VWeighting()(sde, T) * ((x0_hat - x0) ** 2).mean(1)
    torch.testing.assert_close(ours, ((v_hat - v) ** 2).mean(1), rtol=1e-9, atol=0)
    c_out = sd.V().scalings(sde, T).c_out
    torch.testing.assert_close(VWeighting()(sde, T) * c_out**2, torch.ones_like(T), rtol=1e-12, atol=0)


@each_sde
def test_p2_and_min_snr_are_their_papers_factors_of_the_error_of_eps(sde):
    # Choi et al. 2022: 1/(k + SNR)^gamma; Hang et al. 2023: min(1, gamma/SNR); both of |eps_hat - eps|^2
    alpha, sigma, x0, eps, x0_hat, eps_hat = noise_and_estimate(sde)
    of_x0, of_eps = ((x0_hat - x0) ** 2).mean(1), ((eps_hat - eps) ** 2).mean(1)
    snr = (alpha / sigma)[:, 0] ** 2
    torch.testing.assert_close(P2Weighting(1.5, 0.5)(sde, T) * of_x0, of_eps / (1.5 + snr).sqrt(), rtol=1e-8, atol=0)
    torch.testing.assert_close(MinSNRWeighting(5.0)(sde, T) * of_x0, of_eps * (5 / snr).clamp(max=1), rtol=1e-8, atol=0)


@each_sde
def test_min_snr_is_the_papers_factor_of_the_error_of_v(sde):
    # Hang et al. 2023, on v: min(SNR, gamma)/(SNR + 1)
    snr = torch.exp(2 * sde.log_snr(T))
    theirs = VWeighting()(sde, T) * snr.clamp(max=5) / (snr + 1)
    torch.testing.assert_close(MinSNRWeighting()(sde, T), theirs, rtol=1e-9, atol=0)


@each_sde
def test_the_soft_minimum_lies_between_half_the_minimum_and_the_minimum(sde):
    soft, hard = SoftMinSNRWeighting(5.0)(sde, T), MinSNRWeighting(5.0)(sde, T)
    assert ((soft >= hard / 2) & (soft <= hard)).all()


def test_the_soft_minimum_is_crowsons_factor_of_edms_loss():
    # the loss of EDM's network times (sigma s)^2/(sigma^2 + s^2)^2, s = 1/2, is 1/(sigma^2 + s^2) of the error of x0_hat
    sde, s = sd.EDMSDE(), 0.5
    sigma = sde.sigma(T)
    theirs = sd.EDMWeighting(s)(sde, T) * (sigma * s) ** 2 / (sigma**2 + s**2) ** 2
    torch.testing.assert_close(SoftMinSNRWeighting()(sde, T), theirs, rtol=1e-11, atol=0)
    torch.testing.assert_close(theirs, 1 / (sigma**2 + s**2), rtol=1e-11, atol=0)


@each_sde
@pytest.mark.parametrize("bias", [2.0, -3.0])
def test_sigmoid_weighting_is_a_falling_function_of_log_snr_whatever_the_speed(sde, bias):
    # Hoogeboom et al. 2024: -d log SNR/dt exp(b) sigmoid(log SNR - b) |x0_hat - x0|^2
    t = T.clone().requires_grad_()
    log_snr = 2 * sde.log_snr(t)
    (rate,) = torch.autograd.grad(log_snr.sum(), t)
    expected = -rate * math.exp(bias) * torch.sigmoid(log_snr.detach() - bias)
    torch.testing.assert_close(SigmoidWeighting(bias)(sde, T), expected, rtol=1e-8, atol=0)


@each_sde
def test_the_limits_are_the_other_weightings(sde):
    simple, likelihood = sd.SimpleWeighting()(sde, T), sd.LikelihoodWeighting()(sde, T)
    assert torch.equal(P2Weighting(gamma=0.0)(sde, T), simple)
    assert torch.equal(MinSNRWeighting(1e30)(sde, T), simple)
    torch.testing.assert_close(SoftMinSNRWeighting(1e30)(sde, T), simple, rtol=1e-11, atol=0)
    torch.testing.assert_close(SigmoidWeighting(60.0)(sde, T), likelihood, rtol=1e-12, atol=0)
    torch.testing.assert_close(sd.EDMWeighting(1.0)(sde, T), VWeighting()(sde, T), rtol=1e-11, atol=0)


@pytest.mark.parametrize(
    "weighting", [VWeighting(), MinSNRWeighting(3), SoftMinSNRWeighting(), P2Weighting(0.5, 0.25), SigmoidWeighting(-1)], ids=repr
)
def test_a_weighting_prints_as_the_expression_that_makes_it(weighting):
    assert sd.build(repr(weighting), vars(weightings)) == weighting


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MinSNRWeighting(0.0), "gamma must be a positive number, got 0"),
        (lambda: SoftMinSNRWeighting(math.inf), "gamma must be a positive number, got inf"),
        (lambda: P2Weighting(k=0.0), "k must be a positive number, got 0"),
        (lambda: P2Weighting(gamma=-1.0), "gamma must be a number, at least 0, got -1"),
        (lambda: SigmoidWeighting(math.nan), "bias must be finite, got nan"),
    ],
)
def test_weightings_that_are_none_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
