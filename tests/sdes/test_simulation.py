"""Forward simulation: exact on affine processes, in law and per step; and the promises of the interface."""

import dataclasses
import math

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.noise import Replay
from sde_diffusion.sdes.simulation import simulate


@dataclasses.dataclass(frozen=True)
class Cubic(sd.SDE):
    """dx = -x^3 dt + g dw."""

    g: float = math.sqrt(2)
    t_min: float = 1e-3
    t_max: float = 1.0
    prior_std = 0.8

    def drift(self, x, t):
        return -(x**3)

    def diffusion(self, t):
        return torch.full_like(torch.as_tensor(t, dtype=torch.float64), self.g)


def recurrence(sde: sd.AffineSDE, t: float, steps: int) -> tuple[float, float]:
    """Scale and variance of x_t | x_0 under Euler-Maruyama, step by step."""
    scale, variance, h = 1.0, 0.0, t / steps
    for k in range(steps):
        factor = 1 + sde.f(k * h).item() * h
        scale, variance = factor * scale, factor**2 * variance + sde.g(k * h).item() ** 2 * h
    return scale, variance


def test_the_law_of_the_ends_is_that_of_eulers_recurrence(generator):
    sde, n = sd.VPSDE(), 40_000
    x = simulate(sde, torch.full((n, 1), 2.0, dtype=torch.float64), 0.7, steps=20, generator=generator)
    scale, variance = recurrence(sde, 0.7, 20)
    assert x.mean().item() == pytest.approx(2 * scale, abs=4 * math.sqrt(variance / n))  # 4 standard errors
    assert x.var().item() == pytest.approx(variance, abs=4 * variance * math.sqrt(2 / n))


def test_the_recurrence_has_order_1_in_the_steps():
    sde = sd.VPSDE()
    errors = [abs(recurrence(sde, 0.7, n)[1] - sde.sigma(0.7).item() ** 2) for n in (100, 200, 400)]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)


def test_without_noise_paths_converge_to_the_solution_of_the_drift():
    # dx = -x^3 dt has x_t = x_0/sqrt(1 + 2 x_0^2 t)
    x0 = torch.tensor([[-1.5], [0.5], [2.0]], dtype=torch.float64)
    exact = x0 / (1 + 2 * x0**2 * 0.8).sqrt()
    errors = [(simulate(Cubic(g=0.0), x0, 0.8, steps=n) - exact).abs().max().item() for n in (400, 800)]
    assert errors[0] < 2e-3
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)


def test_each_sample_may_end_at_a_time_of_its_own():
    x0, z = torch.tensor([[1.0], [-0.5]], dtype=torch.float64), torch.randn(5, 2, 1, generator=torch.Generator().manual_seed(0)).double()
    both = simulate(Cubic(), x0, torch.tensor([0.2, 0.9]), steps=5, noise=Replay(list(z)))
    for i, t in enumerate((0.2, 0.9)):
        alone = simulate(Cubic(), x0[i : i + 1], t, steps=5, noise=Replay(list(z[:, i : i + 1])))
        torch.testing.assert_close(both[i : i + 1], alone, rtol=1e-7, atol=1e-7)


def test_a_path_ends_where_the_last_state_is_and_substeps_only_thin_it():
    x0 = torch.randn(3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fine = simulate(Cubic(), x0, 0.5, steps=12, path=True, seeds=range(3))
    coarse = simulate(Cubic(), x0, 0.5, steps=4, substeps=3, path=True, seeds=range(3))
    last = simulate(Cubic(), x0, 0.5, steps=4, substeps=3, seeds=range(3))
    assert fine.shape == (13, 3, 2)
    assert fine[0].equal(x0)
    torch.testing.assert_close(coarse, fine[::3], rtol=1e-12, atol=1e-12)
    assert last.equal(coarse[-1])


def test_a_path_can_be_continued():
    x0, z = torch.ones(2, 1, dtype=torch.float64), list(torch.randn(6, 2, 1, generator=torch.Generator().manual_seed(2)).double())
    whole = simulate(sd.VPSDE(), x0, 0.6, steps=6, noise=Replay(z))
    half = simulate(sd.VPSDE(), x0, 0.3, steps=3, noise=Replay(z[:3]))
    torch.testing.assert_close(simulate(sd.VPSDE(), half, 0.6, start=0.3, steps=3, noise=Replay(z[3:])), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"substeps": 0}, {"steps": 1.5}])
def test_numbers_of_steps_are_whole_and_positive(bad):
    with pytest.raises(ValueError, match="must be a whole number, at least 1"):
        simulate(Cubic(), torch.ones(2, 1), 0.5, **bad)


def test_times_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"start=0\.5 and t=0\.25; reverse-time paths are made by simulate_reverse"):
        simulate(Cubic(), torch.ones(2, 1), 0.25, start=0.5)
    with pytest.raises(ValueError, match=r"t_max=1\.0"):
        simulate(Cubic(), torch.ones(2, 1), 1.5)
    with pytest.raises(ValueError, match="shape"):
        simulate(Cubic(), torch.ones(2, 1), torch.tensor([0.1, 0.2, 0.3]))


def test_paths_that_run_away_say_so():
    with pytest.raises(ArithmeticError, match="ran away to infinity in 10 steps; take more steps"):
        simulate(Cubic(), torch.full((2, 1), 100.0), 1.0, steps=10)


def test_denoising_score_matching_refuses_a_process_without_a_kernel_and_names_what_takes_it():
    with pytest.raises(TypeError, match=r"Cubic.* has no Gaussian kernel .* LastStepScoreMatching, SlicedScoreMatching"):
        Cubic().perturb(torch.ones(2, 1), 0.5, torch.ones(2, 1))
