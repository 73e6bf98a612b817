import math

import pytest
import torch

import sde_diffusion as sd

T = torch.linspace(0.001, 1, 101, dtype=torch.float64)
make = sd.AffineSDE.from_coefficients


def close(ours: sd.AffineSDE, exact: sd.AffineSDE, t: torch.Tensor) -> None:
    for name in ("alpha", "sigma", "f", "g"):
        torch.testing.assert_close(getattr(ours, name)(t), getattr(exact, name)(t), rtol=1e-10, atol=0)


def test_the_coefficients_of_vp_give_vp():
    close(make(lambda t: -0.5 * (0.1 + 19.9 * t), lambda t: torch.sqrt(0.1 + 19.9 * t)), sd.VPSDE(), T)


def test_the_coefficients_of_any_process_give_it_back():
    for sde in (sd.VPSDE(0.5, 3.0), sd.SubVPSDE(), sd.CosineVPSDE(t_max=0.95), sd.RectifiedFlow(t_max=0.95)):
        # sub-VP's sigma is 1e-5 where its g^2, of order t, starts: relative accuracy there too
        close(make(sde.f, sde.g, t_max=sde.t_max), sde, T[sde.t_max >= T])


def test_constant_coefficients_give_the_ornstein_uhlenbeck_process():
    a, c = 0.7, 1.3
    sde = make(lambda t: -a, lambda t: c)
    torch.testing.assert_close(sde.alpha(T), torch.exp(-a * T), rtol=1e-12, atol=0)
    torch.testing.assert_close(sde.sigma(T) ** 2, c**2 * -torch.expm1(-2 * a * T) / (2 * a), rtol=1e-12, atol=0)
    growing = make(lambda t: a, lambda t: c)
    torch.testing.assert_close(growing.sigma(T) ** 2, c**2 * torch.expm1(2 * a * T) / (2 * a), rtol=1e-12, atol=0)


def test_brownian_motion():
    sde = make(lambda t: 0.0, lambda t: 3.0)
    torch.testing.assert_close(sde.sigma(T), 3 * T.sqrt(), rtol=1e-13, atol=0)
    assert sde.prior_std == pytest.approx(3, rel=1e-13)
    assert sde.alpha(0.3).item() == 1


def test_a_jump_is_allowed_only_where_the_kernel_stays_exact():
    # 1/2 is an edge of every panel; 0.3 is of none
    sde = make(lambda t: 0.0 * t, lambda t: torch.where(t < 0.5, 1.0, 2.0))
    assert sde.sigma(1.0).item() ** 2 == pytest.approx(0.5 + 2, rel=1e-11)
    with pytest.raises(ValueError, match=r"did not converge to 1e-11 .* f and g must be smooth"):
        make(lambda t: 0.0 * t, lambda t: torch.where(t < 0.3, 1.0, 2.0))


@pytest.mark.parametrize(
    ("f", "g", "options", "message"),
    [
        (lambda t: -1 / (1 - t), lambda t: 1.0, {}, r"f\(t\) is -inf at t=1; choose t_min and t_max inside its domain"),
        (lambda t: -1 / torch.abs(t - 0.4), lambda t: 1.0, {}, "did not converge"),
        (lambda t: -t.rsqrt(), lambda t: 1.0, {}, "did not converge"),
        (lambda t: -t, lambda t: torch.where(t > 0.5, math.nan, 1.0), {}, r"g\(t\) is nan at t=0.5"),
        (lambda t: -t, lambda t: torch.where(t < 5e-4, math.nan, 1.0), {}, "g is not finite somewhere before t=0.0"),
        (lambda t: torch.where(t < 5e-4, math.inf, 1.0), lambda t: 1.0, {}, "f is not finite somewhere before t=0.0"),
        (lambda t: -t, lambda t: 0.0, {}, "g is 0 from t=0 to t=1"),
        (lambda t: -t, lambda t: torch.relu(t - 0.25), {}, "g is 0 from t=0 to t=0.25"),
        (lambda t: -t, lambda t: torch.ones(3), {}, r"g\(t\) must be a number or have the shape of t, got \(3,\)"),
        (lambda t: -t, lambda t: 1.0, {"t_max": 1.5}, "t_max must be at most 1, got 1.5"),
        (lambda t: -t, lambda t: 1.0, {"t_min": 0.0}, "t_min must be greater than 0, got 0.0"),
        (lambda t: -t, lambda t: 1.0, {"t_min": 0.5, "t_max": 0.1}, "t_min must be less than t_max"),
    ],
)
def test_coefficients_without_a_kernel_are_refused(f, g, options, message):
    with pytest.raises(ValueError, match=message):
        make(f, g, **options)


def test_float32_times_stay_float32_and_are_integrated_in_float64():
    sde, exact = make(lambda t: -0.5 * (0.1 + 19.9 * t), lambda t: torch.sqrt(0.1 + 19.9 * t)), sd.VPSDE()
    t = T.float()
    for name in ("alpha", "sigma", "f", "g", "t_of_log_snr"):
        assert getattr(sde, name)(t).dtype == torch.float32
    torch.testing.assert_close(sde.sigma(t).double(), exact.sigma(t.double()), rtol=1e-7, atol=0)
