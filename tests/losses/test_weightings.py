import pytest
import torch

import sde_diffusion as sd

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
