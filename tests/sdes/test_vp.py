import math

import numpy as np
import pytest
import torch

import sde_diffusion as sd

NODES = torch.arange(1, 1001, dtype=torch.float64) / 1000


def test_sub_vp_has_at_every_time_less_noise_than_vp():
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    vp, sub = sd.VPSDE(), sd.SubVPSDE()
    assert (sub.sigma(t) <= vp.sigma(t)).all()
    torch.testing.assert_close(sub.sigma(t), vp.sigma(t) ** 2, rtol=1e-13, atol=0)
    torch.testing.assert_close(sub.alpha(t), vp.alpha(t), rtol=0, atol=0)


def test_sub_vp_variance_at_one_half():
    # systems.md A15: (1 - exp(-B))^2 with B(1/2) = 0.05 + 19.9/8
    assert sd.SubVPSDE().sigma(0.5).item() ** 2 == pytest.approx(0.8481235, abs=5e-8)


@pytest.mark.parametrize("sde", [sd.VPSDE(), sd.CosineVPSDE(), sd.VPSDE(0.0, 20.0), sd.VPSDE(3.0, 3.0)], ids=repr)
def test_the_variance_is_preserved(sde):
    t = torch.linspace(0, sde.t_max, 101, dtype=torch.float64)
    torch.testing.assert_close(sde.alpha(t) ** 2 + sde.sigma(t) ** 2, torch.ones_like(t), rtol=1e-14, atol=0)


def test_sigma_keeps_its_digits_at_tiny_times():
    # sigma^2 = B - B^2/2 + ..., B = 0.1 t there
    assert sd.VPSDE().sigma(1e-12).item() == pytest.approx(math.sqrt(1e-13), rel=1e-10)
    assert sd.SubVPSDE().sigma(1e-12).item() == pytest.approx(1e-13, rel=1e-10)
    rate = math.pi / 2 / 1.008
    assert sd.CosineVPSDE().sigma(1e-12).item() == pytest.approx(math.sqrt(2 * rate * 1e-12 * math.tan(0.008 * rate)), rel=1e-9)


@pytest.mark.parametrize("sde", [sd.VPSDE(0.0, 20.0), sd.SubVPSDE(0.0, 20.0), sd.VPSDE(), sd.CosineVPSDE()], ids=repr)
def test_infinite_log_snr_is_time_zero(sde):
    assert sde.t_of_log_snr(math.inf).item() == pytest.approx(0, abs=1e-15)


def test_log_snr_is_inverted_when_the_signal_is_all_but_gone():
    sde = sd.VPSDE(0.1, 80.0)
    t = torch.linspace(0.5, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(sde.t_of_log_snr(sde.log_snr(t)), t, rtol=0, atol=1e-9)


def test_the_chain_of_1000_steps_is_ddpms():
    chain = sd.VPSDE().discretize(1000)
    assert chain == sd.DDPMChain(sd.linear_betas(1000))
    np.testing.assert_allclose(chain.betas, np.linspace(1e-4, 0.02, 1000), rtol=1e-14)


def test_chain_and_process_differ_by_a_thousandth_when_aligned_at_i_over_n():
    # systems.md A6 (ii); alignment at (i - 1)/(n - 1) is worse
    sde, chain = sd.VPSDE(), sd.VPSDE().discretize(1000)
    alpha_bar, sigma = chain.alpha(NODES) ** 2, chain.sigma(NODES)
    assert (sde.alpha(NODES) ** 2 - alpha_bar).abs().max().item() == pytest.approx(8.1e-4, abs=5e-6)
    assert (sde.sigma(NODES) - sigma).abs().max().item() == pytest.approx(1.3e-3, abs=5e-5)
    shifted = (torch.arange(1000, dtype=torch.float64)) / 999
    assert (sde.alpha(shifted) ** 2 - alpha_bar).abs().max().item() == pytest.approx(1.6e-3, abs=5e-5)
    assert (sde.sigma(shifted) - sigma).abs().max().item() == pytest.approx(1e-2, abs=5e-5)
    assert sde.alpha(1.0).item() ** 2 == pytest.approx(4.319e-5, abs=5e-9)


def test_the_gap_between_chain_and_process_is_of_first_order():
    def gap(n):
        nodes = torch.arange(1, n + 1, dtype=torch.float64) / n
        return (sd.VPSDE().alpha(nodes) ** 2 - sd.VPSDE().discretize(n).alpha(nodes) ** 2).abs().max().item()

    assert gap(500) / gap(1000) == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("cls", [sd.VPSDE, sd.SubVPSDE])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta_min": 20.0, "beta_max": 0.1}, r"beta_min must lie in \[0, beta_max=0.1\], got 20.0; swap"),
        ({"beta_min": -0.1}, r"beta_min must lie in \[0, beta_max=20.0\], got -0.1"),
        ({"beta_min": math.nan}, "beta_min must lie in .* got nan"),
        ({"beta_max": math.inf}, "beta_max must be a positive number, got inf"),
        ({"t_min": 0.0}, "t_min must be greater than 0, got 0.0"),
        ({"t_min": 1.0}, "t_min must be less than t_max"),
        ({"t_min": math.nan}, "t_min must be greater than 0, got nan"),
    ],
)
def test_linear_beta_refuses(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"s": 0.0}, "s must be a positive number, got 0.0"),
        ({"t_max": 1.0}, "t_max must be less than 1, got 1.0"),
        ({"t_min": 0.5, "t_max": 0.5}, "t_min must be less than t_max, got t_min=0.5 and t_max=0.5"),
    ],
)
def test_cosine_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        sd.CosineVPSDE(**options)


def test_too_few_steps_for_beta_max_are_refused():
    with pytest.raises(ValueError, match=r"20 steps give beta_n = 1 >= 1; use more than beta_max = 20.0 steps"):
        sd.VPSDE().discretize(20)
