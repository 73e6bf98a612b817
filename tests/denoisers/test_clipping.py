"""Predictions inside the range of the data."""

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.denoisers.clipping import Clipped, DynamicThreshold


class Fixed(sd.Denoiser):
    """x0_hat = whatever."""

    def __init__(self, value, sde):
        super().__init__(sde)
        self.value = value

    def forward(self, x, t, cond=None):
        return self.value + 0 * x

    def with_variance(self, x, t, cond=None):
        return self(x, t, cond), torch.full_like(x, 0.25)


@pytest.fixture
def mixture():
    return sd.GaussianMixtureDenoiser([[1.3, -2.0], [-0.4, 0.5]], 0.1, None, sd.VPSDE())


@pytest.fixture
def x(generator):
    return 2 * torch.randn(64, 2, generator=generator, dtype=torch.float64)


def test_clipped_leaves_what_is_inside_and_brings_the_rest_to_the_ends(mixture, x):
    free, clipped = mixture(x, 0.3), Clipped(mixture, -1.5, 0.8)(x, 0.3)
    inside = (free >= -1.5) & (free <= 0.8)
    assert inside.any()
    assert not inside.all()
    torch.testing.assert_close(clipped[inside], free[inside], rtol=0, atol=0)
    assert set(clipped[~inside].tolist()) == {-1.5, 0.8}


def test_eps_and_score_follow_from_the_clipped_prediction(mixture, x):
    clipped, sde = Clipped(mixture), mixture.sde
    x0_hat = mixture(x, 0.3).clamp(-1, 1)
    torch.testing.assert_close(clipped.eps(x, 0.3), (x - sde.alpha(0.3) * x0_hat) / sde.sigma(0.3))
    torch.testing.assert_close(clipped.score(x, 0.3), -clipped.eps(x, 0.3) / sde.sigma(0.3))


@pytest.mark.parametrize("quantile", [0.01, 0.5, 0.9, 0.995, 1.0])
@pytest.mark.parametrize("shape", [(3, 1), (3, 2), (3, 3, 8, 8)], ids=str)
def test_the_dynamic_threshold_is_the_quantile_of_each_sample(quantile, shape, generator):
    value = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    denoiser = DynamicThreshold(Fixed(value, sd.VPSDE()), quantile)
    s = value.abs().flatten(1).quantile(quantile, 1).clamp(min=1).reshape(-1, *[1] * (len(shape) - 1))
    torch.testing.assert_close(denoiser(torch.zeros_like(value), 0.5), value.clamp(-s, s) / s)


def test_inside_the_range_dynamic_thresholding_changes_nothing_and_with_its_smallest_bound_it_clips(generator):
    value = torch.randn(3, 8, 8, generator=generator)
    quiet = DynamicThreshold(Fixed(value / 10, sd.VPSDE()))
    torch.testing.assert_close(quiet(torch.zeros_like(value), 0.5), value / 10)
    hard = DynamicThreshold(Fixed(value, sd.VPSDE()), largest=1.0)
    torch.testing.assert_close(hard(torch.zeros_like(value), 0.5), value.clamp(-1, 1))


def test_other_limits_are_a_change_of_unit(generator):
    value = torch.randn(3, 8, 8, generator=generator, dtype=torch.float64)
    x = torch.zeros_like(value)
    ours = DynamicThreshold(Fixed(4 * value, sd.VPSDE()), 0.9, 4.0)(x, 0.5)
    torch.testing.assert_close(ours, 4 * DynamicThreshold(Fixed(value, sd.VPSDE()), 0.9)(x, 0.5))


@pytest.mark.parametrize("wrap", [Clipped, DynamicThreshold])
def test_the_fast_paths_are_the_prediction_itself(wrap, x):
    class Network(torch.nn.Module):
        def forward(self, x, c_noise):
            return torch.sin(3 * x) + c_noise[:, None]

    sde = sd.VPSDE()
    denoiser = wrap(sd.NetworkDenoiser(Network(), sde, sd.V()))
    times = torch.tensor([0.9, 0.3], dtype=torch.float64)
    for t, prediction in zip(times, denoiser.at(times, x), strict=True):
        torch.testing.assert_close(prediction(x), denoiser(x, t))
    # steps of its own for every sample, against steps for all
    fine = sd.sample(denoiser, sd.Heun(), steps=500, x=x[:4])
    torch.testing.assert_close(sd.sample(denoiser, sd.AdaptiveODE(rtol=1e-5, atol=1e-6), x=x[:4]), fine, rtol=0, atol=1e-3)


@pytest.mark.parametrize("wrap", [Clipped, DynamicThreshold])
def test_a_learned_variance_is_handed_on(wrap, x):
    x0_hat, v = wrap(Fixed(3.0, sd.VPSDE())).with_variance(x, 0.5)
    assert x0_hat.eq(1).all()
    assert v.eq(0.25).all()


def test_options_outside_their_ranges_are_refused(mixture):
    with pytest.raises(ValueError, match="swap them"):
        Clipped(mixture, 1.0, -1.0)
    with pytest.raises(ValueError, match="got 99"):
        DynamicThreshold(mixture, 99.5)
    with pytest.raises(ValueError, match="limit must be a positive number"):
        DynamicThreshold(mixture, limit=0.0)
    with pytest.raises(ValueError, match="swap them"):
        DynamicThreshold(mixture, limit=2.0, largest=1.0)
