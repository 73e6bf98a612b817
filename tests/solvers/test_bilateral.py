"""BDDM's noise schedule: its step against a search, and its grid against others where the error is known."""

import math

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.solvers.bilateral import best_share

VP = sd.VPSDE()


@pytest.fixture(scope="module")
def errors():
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    denoiser = sd.GaussianMixtureDenoiser(torch.stack([angles.cos(), angles.sin()], 1), 0.1, None, VP)
    data = denoiser.sample_data(4096, generator=torch.Generator().manual_seed(0))
    return sd.ReconstructionError.estimate(denoiser, data, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("q", [1e-4, 0.01, 0.3, 0.7, 1.0])
def test_the_step_minimises_the_published_loss(q):
    # (1) as printed, for delta^2 = 0.8, with E|eps - c eps_hat|^2/d = 1 - 2 c Gamma + c^2 Gamma, Gamma = 1 - q
    delta2, b = 0.8, 0.8 * torch.linspace(1e-4, 1 - 1e-4, 100_001, dtype=torch.float64)
    c = b / delta2
    loss = delta2 / (2 * (delta2 - b)) * (1 - (2 * c - c**2) * (1 - q)) + 0.25 * (delta2 / b).log() + 0.5 * (b / delta2 - 1)
    assert abs(best_share(q) - float(c[loss.argmin()])) < 0.01


def test_without_error_the_step_is_the_whole_noise():
    assert best_share(0.0) == 1.0
    assert best_share(1e-12) > 0.999
    with pytest.raises(ValueError, match="negative"):
        best_share(-0.1)


def test_with_twenty_steps_its_bound_is_below_that_of_equal_steps_and_above_the_best(errors):
    bound = {
        name: sd.variational_bound(VP, grid(VP, 20), errors, variance="forward")
        for name, grid in {
            "uniform": sd.uniform,
            "bilateral": sd.bilateral(errors=errors),
            "best": sd.dynamic_programming(errors=errors, variance="forward"),
        }.items()
    }
    assert bound["best"] < bound["bilateral"] < 0.95 * bound["uniform"]


def test_with_few_steps_it_has_not_arrived_and_is_no_better_than_equal_steps(errors):
    # why `dynamic_programming` is the grid to use: the rule chooses its own number of steps, more than 8
    times = sd.bilateral(VP, 8, errors=errors)
    assert times[-2] > 0.1
    bounds = [sd.variational_bound(VP, t, errors, variance="forward") for t in (times, sd.uniform(VP, 8))]
    assert 1.0 < bounds[0] / bounds[1] < 1.05


def test_it_is_the_same_schedule_on_every_process(errors):
    edm = sd.EDMSDE(sigma_min=float(VP.sigma(VP.t_min) / VP.alpha(VP.t_min)), sigma_max=float(VP.sigma(1.0) / VP.alpha(1.0)))
    levels = [sde.log_snr(sd.bilateral(sde, 8, errors=errors)) for sde in (VP, edm)]
    torch.testing.assert_close(*levels, rtol=1e-6, atol=1e-6)


def test_it_needs_the_errors():
    with pytest.raises(ValueError, match="errors=ReconstructionError"):
        sd.bilateral(VP, 8)
