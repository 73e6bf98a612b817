import math

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.likelihood.codes import decode, encode, interpolate
from sde_diffusion.likelihood.flow import log_likelihood

SDES = [sd.VPSDE(), sd.VESDE(), sd.SubVPSDE(), sd.EDMSDE(), sd.RectifiedFlow()]
every_process = pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ring(sde):
    """Row A17: 8 Gaussians on the unit circle, std 0.1."""
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    return sd.GaussianMixtureDenoiser(torch.stack([angles.cos(), angles.sin()], 1), 0.1, None, sde)


def gaussian(sde):
    return sd.GaussianDenoiser(torch.tensor([0.5, -0.2]), torch.tensor([0.3, 0.8]), sde)


def deviation(denoiser, t):
    """V_t^(1/2) of (3)."""
    return (denoiser.sde.alpha(t) ** 2 * denoiser.variances[0] + denoiser.sde.sigma(t) ** 2).sqrt()


@every_process
def test_a_round_trip_returns_on_the_ring(sde):
    denoiser = ring(sde)
    x = denoiser.sample_data(64, generator=generator())
    for data in (x, x.float()):
        assert (decode(denoiser, encode(denoiser, data)) - data).abs().max() < 2e-5  # row A17 asks for 1e-4; measured: 6e-6


@every_process
def test_a_round_trip_returns_in_64_dimensions(sde):
    means = torch.randn(5, 64, generator=generator(3))
    denoiser = sd.GaussianMixtureDenoiser(means, 0.3, None, sde)
    x = denoiser.sample_data(16, generator=generator())
    assert (decode(denoiser, encode(denoiser, x)) - x).abs().max() < 1e-4


@every_process
def test_gaussian_data_have_the_affine_code_of_the_formula(sde):
    denoiser, t_min, t_max = gaussian(sde), 0.01, sde.t_max
    x = denoiser.sample_data(16, generator=generator())
    stretch = deviation(denoiser, t_max) / deviation(denoiser, t_min)
    expected = (sde.alpha(t_max) * denoiser.mean + stretch * (x - sde.alpha(t_min) * denoiser.mean)) / sde.prior_std
    torch.testing.assert_close(encode(denoiser, x, t_min=t_min), expected, rtol=0, atol=1e-5)


@every_process
def test_the_code_of_the_models_own_data_is_standard_normal(sde):
    denoiser = ring(sde)
    z = encode(denoiser, denoiser.sample_data(2000, generator=generator()), rtol=1e-3, atol=1e-3)
    # four standard errors, 4/sqrt(4000) and 4/sqrt(8000), and what the data leave at t_max: 0.022 for EDM's sigma of 80 is the most
    assert z.mean().abs().item() < 0.064 + 0.02
    assert z.std().item() == pytest.approx(1.0, abs=0.045)
    assert (z.abs() > 1.96).double().mean().item() == pytest.approx(0.05, abs=0.02)


@every_process
def test_the_temperature_scales_the_variance_of_gaussian_data_by_its_square(sde):
    denoiser = gaussian(sde)
    z = torch.randn(32, 2, generator=generator(), dtype=torch.float64)
    cold, warm = (decode(denoiser, z, temperature=T, rtol=1e-6, atol=1e-6) for T in (0.5, 1.0))
    torch.testing.assert_close(cold.var(0) / warm.var(0), torch.full((2,), 0.25, dtype=torch.float64), rtol=1e-4, atol=0)


@every_process
def test_the_code_is_that_of_log_likelihood(sde):
    denoiser = ring(sde)
    x = denoiser.sample_data(8, generator=generator())
    z = encode(denoiser, x)
    torch.testing.assert_close(log_likelihood(denoiser, x).code, z, rtol=0, atol=3e-5)  # tolerances of 1e-5 and 1e-6
    probed = log_likelihood(denoiser, x, method="hutchinson", rtol=1e-6, atol=1e-6, seeds=range(8))
    torch.testing.assert_close(probed.code, z, rtol=0, atol=1e-12)  # probes choose no steps


def test_a_solver_of_ones_own_has_its_own_tolerance():
    denoiser = ring(sd.VPSDE())
    x = denoiser.sample_data(8, generator=generator())
    solver = sd.AdaptiveODE(rtol=1e-8, atol=1e-8, form="velocity")
    assert (decode(denoiser, encode(denoiser, x, solver=solver), solver=solver) - x).abs().max() < 1e-6


def test_codes_of_float32_data_are_float32():
    denoiser = ring(sd.VPSDE())
    z = encode(denoiser, denoiser.sample_data(4, generator=generator()).float(), rtol=1e-4, atol=1e-4)
    assert z.dtype == torch.float32


WEIGHTS = [0.0, 0.25, 0.5, 1.0]


def pair(b=5, d=(3, 4)):
    return torch.randn(2, b, *d, generator=generator()).double()


@pytest.mark.parametrize("spherical", [True, False])
def test_interpolation_has_the_two_codes_at_its_ends(spherical):
    a, b = pair()
    path = interpolate(a, b, WEIGHTS, spherical=spherical)
    assert path.shape == (4, 5, 3, 4)
    torch.testing.assert_close(path[0], a)
    torch.testing.assert_close(path[-1], b)


def test_the_great_circle_is_shoemakes_and_keeps_a_common_norm():
    a, b = (torch.nn.functional.normalize(z, dim=1) * 3 for z in pair(d=(6,)))
    omega = ((a * b).sum(1, keepdim=True) / 9).acos()
    for w, z in zip(WEIGHTS, interpolate(a, b, WEIGHTS), strict=True):
        torch.testing.assert_close(z, (torch.sin((1 - w) * omega) * a + torch.sin(w * omega) * b) / torch.sin(omega))
        torch.testing.assert_close(z.norm(dim=1), torch.full((5,), 3.0, dtype=torch.float64))


def test_equal_parallel_opposite_and_zero_codes_have_a_path():
    a = pair(d=(6,))[0]
    torch.testing.assert_close(interpolate(a, a, WEIGHTS)[2], a)
    torch.testing.assert_close(interpolate(a, 3 * a, WEIGHTS)[2], 2 * a)
    half = interpolate(a, -a, WEIGHTS)
    torch.testing.assert_close(half.norm(dim=2), a.norm(dim=1).expand(4, 5))
    torch.testing.assert_close((half[2] * a).sum(1), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(half[3], -a)
    torch.testing.assert_close(interpolate(torch.zeros_like(a), a, WEIGHTS)[2], a / 2)
    line = interpolate(torch.tensor([[2.0]]), torch.tensor([[-2.0]]), [0.5])
    assert line.abs().max() < 1e-6  # in one dimension the way leads through zero


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: encode(d, torch.zeros(3)), r"must have shape \(b, \*d\)"),
        (lambda d: encode(d, torch.zeros(3, 2, dtype=torch.long)), "int64"),
        (lambda d: encode(d, torch.zeros(3, 2), t_min=1.0), "t_min must lie in"),
        (lambda d: decode(d, torch.zeros(3, 2), temperature=0.0), "temperature must be a positive number"),
        (lambda d: decode(d, torch.zeros(3, 2, dtype=torch.long)), r"z must be floating point, got torch.int64.*randn"),
        (lambda d: decode(d, torch.zeros(3, 2), rtol=1e-3, solver=sd.AdaptiveODE()), "has tolerances of its own, got rtol=0.001"),
        (lambda d: interpolate(torch.zeros(2, 3).long(), torch.zeros(2, 3), [0.5]), "codes must be floating point, got torch.int64"),
        (lambda d: interpolate(torch.zeros(2, 3), torch.zeros(2, 4), [0.5]), "of one shape"),
        (lambda d: interpolate(torch.zeros(2, 3), torch.zeros(2, 3), 0.5), r"write \[0\.5\] for one"),
    ],
)
def test_mistakes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(ring(sd.VPSDE()))
