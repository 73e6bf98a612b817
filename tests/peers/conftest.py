"""Parity with other libraries: same model, same grid, same noise. They are lent torch's global generator, which some advance."""

import sys
from pathlib import Path

import pytest
import torch

import sde_diffusion as sd

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(autouse=True)
def _global_random_state_is_untouched():
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture
def mixture():
    def make(sde: sd.AffineSDE) -> sd.GaussianMixtureDenoiser:
        return sd.GaussianMixtureDenoiser([[1.0, -1.0], [-1.0, 0.5]], 0.3, [0.7, 0.3], sde)

    return make


@pytest.fixture
def compare(mixture):
    """The largest difference between our samples and a neighbour's, from one start and on one recorded noise."""

    def difference(sde: sd.AffineSDE, solver: sd.Solver, theirs, grid: torch.Tensor, dtype: torch.dtype = torch.float64) -> float:
        denoiser = mixture(sde)
        x = sde.prior_sample((4, 2), sd.Stream(torch.Generator().manual_seed(0)), dtype=dtype)
        noise = sd.Record(sd.Stream(torch.Generator().manual_seed(1)))
        ours = sd.sample(denoiser, solver, x=x, grid=grid, noise=noise)
        if not noise.draws:  # some draw all the same, and multiply by 0
            return (ours - theirs(denoiser, x, grid, torch.zeros_like)).abs().max().item()
        replay = sd.Replay([*noise.draws, torch.zeros_like(x)])  # some draw once more, for a last step whose noise is 0
        other = theirs(denoiser, x, grid, replay)
        assert 0 <= replay.used - len(noise.draws) <= 1
        return (ours - other).abs().max().item()

    return difference
