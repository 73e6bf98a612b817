import math

import pytest
import torch

import sde_diffusion as sd

T = torch.linspace(0, 1, 11, dtype=torch.float64)


def test_ve_is_geometric_between_its_ends():
    sde = sd.VESDE(0.01, 50.0)
    sigma = sde.sigma(T)
    torch.testing.assert_close(sigma[1:] / sigma[:-1], torch.full((10,), 5000**0.1, dtype=torch.float64), rtol=1e-12, atol=0)
    assert (sde.sigma(0.0).item(), sde.sigma(1.0).item()) == pytest.approx((0.01, 50.0), rel=1e-14)
    torch.testing.assert_close(sde.g(T), sigma * math.sqrt(2 * math.log(5000)), rtol=1e-14, atol=0)


@pytest.mark.parametrize("sde", [sd.VESDE(), sd.EDMSDE(), sd.NCSNLadder((0.1, 1.0, 7.0))], ids=repr)
def test_the_prior_has_the_largest_noise_and_not_unit_variance(sde):
    assert sde.prior_std == pytest.approx({sd.VESDE: 50.0, sd.EDMSDE: 80.0, sd.NCSNLadder: 7.0}[type(sde)], rel=1e-14)


def test_a_uniform_grid_is_karras_grid():
    # Karras et al. 2022, eq 5, written from the paper: sigma_i = (smax^(1/7) + i/(N-1) (smin^(1/7) - smax^(1/7)))^7
    low, high, n = 0.002 ** (1 / 7), 80.0 ** (1 / 7), 18
    expected = [(high + i / (n - 1) * (low - high)) ** 7 for i in range(n)]
    sigma = sd.EDMSDE().sigma(torch.linspace(1, 0, n, dtype=torch.float64))
    torch.testing.assert_close(sigma, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_edm_with_rho_1_is_linear_and_ve_is_its_limit():
    torch.testing.assert_close(sd.EDMSDE(1.0, 3.0, 1.0).sigma(T), 1 + 2 * T, rtol=1e-14, atol=0)
    torch.testing.assert_close(sd.EDMSDE(0.01, 50.0, 1e6).sigma(T), sd.VESDE().sigma(T), rtol=1e-4, atol=0)


def test_the_ladder_of_n_levels_is_ncsns():
    ladder = sd.VESDE(0.01, 1.0).discretize(10)
    nodes = torch.arange(1, 11, dtype=torch.float64) / 10
    torch.testing.assert_close(
        ladder.sigma(nodes), sd.VESDE(0.01, 1.0).sigma(torch.linspace(0, 1, 10, dtype=torch.float64)), rtol=1e-12, atol=0
    )
    assert ladder.sigma(0.0).item() == 0


@pytest.mark.parametrize("cls", [sd.VESDE, sd.EDMSDE])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_min": 0.0}, "sigma_min must be a positive number, got 0.0"),
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "sigma_min must be less than sigma_max, got .*swap them"),
        ({"sigma_max": math.inf}, "sigma_max must be a positive number, got inf"),
        ({"t_min": -0.5}, "t_min must be at least 0, got -0.5"),
        ({"t_min": 1.5}, "t_min must be less than t_max"),
    ],
)
def test_ve_refuses(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(**options)


def test_edm_refuses_a_rho_that_is_not_positive():
    with pytest.raises(ValueError, match=r"rho must be a positive number, got 0.0"):
        sd.EDMSDE(rho=0.0)


def test_ve_may_stop_at_time_zero():
    assert sd.VESDE(t_min=0.0).sigma(0.0).item() == pytest.approx(0.01)
