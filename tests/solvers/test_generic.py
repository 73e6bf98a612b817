"""The reverse sampler of any process: Euler's table on affine ones, invariant laws on others, and other people's integrators."""

import dataclasses
import importlib
import math
import sys
import types
from pathlib import Path

import pytest
import torch
import torchsde
from scipy.integrate import solve_ivp
from torch import nn

import sde_diffusion as sd
from sde_diffusion.denoisers.score_network import ScoreNetwork, prior_score
from sde_diffusion.noise import Replay
from sde_diffusion.solvers.generic import simulate_reverse

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
wells = importlib.import_module("double_well")


class Nothing(nn.Module):
    """F = 0: the score is the prior's."""

    def forward(self, x, t):
        return torch.zeros_like(x)


STATIONARY = ScoreNetwork(Nothing(), wells.Quartic())


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sde", [sd.VPSDE(), sd.VESDE(0.01, 5.0)], ids=lambda s: type(s).__name__)
def test_on_an_affine_process_it_is_the_table_of_euler_maruyama(sde, eta, generator):
    denoiser = sd.GaussianMixtureDenoiser([[1.0, 0.0], [-1.0, 0.5]], 0.3, None, sde)
    grid = torch.linspace(1.0, 0.05, 21, dtype=torch.float64)
    x, z = torch.randn(4, 2, generator=generator, dtype=torch.float64), torch.randn(20, 4, 2, generator=generator, dtype=torch.float64)
    expected = sd.sample(denoiser, sd.EulerMaruyama(eta=eta), x=x, grid=grid, noise=Replay(list(z)))
    torch.testing.assert_close(simulate_reverse(denoiser, x=x, grid=grid, eta=eta, noise=Replay(list(z))), expected, rtol=1e-9, atol=1e-9)


def test_the_stationary_law_of_a_process_that_is_not_affine_is_kept(generator):
    # E x^2 = 2 Gamma(3/4)/Gamma(1/4) and, by parts, E x^4 = 1; 4 standard errors, and Euler's bias of some h = 1/200
    x = simulate_reverse(STATIONARY, shape=(20_000, 1), steps=200, generator=generator).double()
    for power, moment in ((2, wells.VARIANCE), (4, 1.0)):
        assert (x**power).mean().item() == pytest.approx(moment, abs=4 * (x**power).std().item() / math.sqrt(len(x)) + 0.01)


def test_the_stationary_law_does_not_flow(generator):
    # eta = 0: -x^3 - 1/2 2 (-x^3) = 0
    x = STATIONARY.sde.prior_sample((50, 1), generator=generator)
    torch.testing.assert_close(simulate_reverse(STATIONARY, x=x, steps=7, eta=0.0), x, rtol=1e-5, atol=1e-6)


def test_a_process_may_bring_its_own_prior(generator):
    sde, n = wells.Quartic(), 40_000
    x = sde.prior_sample((n, 1), generator=generator, dtype=torch.float64)
    for power, moment in ((2, wells.VARIANCE), (4, 1.0)):
        assert (x**power).mean().item() == pytest.approx(moment, abs=4 * (x**power).std().item() / math.sqrt(n))
    grid = torch.linspace(-5, 5, 2001, dtype=torch.float64)[:, None]
    assert torch.trapezoid(sde.prior_log_prob(grid).exp(), grid[:, 0]).item() == pytest.approx(1, abs=1e-9)
    assert sde.prior_std == pytest.approx(x.std().item(), rel=0.02)


def test_the_score_of_a_prior_is_its_gradient_and_has_one_itself():
    x = torch.tensor([[0.5], [-2.0]], dtype=torch.float64)
    torch.testing.assert_close(prior_score(wells.Quartic(), x), -(x**3))
    torch.testing.assert_close(prior_score(sd.VESDE(0.01, 5.0), x), -x / 25)
    with torch.no_grad():
        assert not prior_score(wells.Quartic(), x).requires_grad
    x.requires_grad_()
    (second,) = torch.autograd.grad(prior_score(wells.Quartic(), x).sum(), x)
    torch.testing.assert_close(second, -3 * x.detach() ** 2)


def test_the_true_score_brings_noise_back_to_the_data(generator):
    # 0.03 is systems.md A10's figure for a learned score and 20000 samples
    x = simulate_reverse(wells.Exact(wells.Truth(151), wells.Quartic()), shape=(4000, 1), steps=200, generator=generator)
    assert wells.distance_to_data(x) < 0.04


def test_a_path_has_all_states_and_seeds_belong_to_samples():
    whole = simulate_reverse(STATIONARY, shape=(3, 2), steps=5, seeds=range(3), path=True)
    assert whole.shape == (6, 3, 2)
    assert simulate_reverse(STATIONARY, shape=(3, 2), steps=5, seeds=range(3)).equal(whole[-1])
    assert simulate_reverse(STATIONARY, shape=(1, 2), steps=5, seeds=[2]).equal(whole[-1, 2:])


def test_a_condition_reaches_the_network(generator):
    class Shift(nn.Module):
        def forward(self, x, t, cond):
            return cond[:, None] - x

    model, cond = ScoreNetwork(Shift(), sd.VPSDE(), prior=False), torch.tensor([-3.0, 3.0])
    torch.testing.assert_close(model.score(torch.zeros(2, 1), 0.5, cond), cond[:, None])
    x = simulate_reverse(model, shape=(2, 1), steps=50, cond=cond, generator=generator)
    assert x[0] < 0 < x[1]


def test_the_flow_is_the_one_that_scipy_solves(generator):
    class Wave(nn.Module):
        def forward(self, x, t):
            return torch.sin(x + t[:, None])

    model, x = ScoreNetwork(Wave(), wells.Quartic()), torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    flow = model.sde.reverse(model, eta=0.0, shape=(-1, 1))
    exact = torch.from_numpy(solve_ivp(flow, (1.0, 0.2), x[:, 0].numpy(), rtol=1e-9, atol=1e-9).y[:, -1:])
    errors = [
        (simulate_reverse(model, x=x, grid=torch.linspace(1, 0.2, n + 1, dtype=torch.float64), eta=0.0) - exact).abs().max().item()
        for n in (100, 200)
    ]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)
    assert errors[1] < 5e-3


def test_torchsde_takes_the_reverse_process_of_a_score_network():
    reverse = STATIONARY.sde.reverse(STATIONARY)
    x = torch.full((2000, 1), 0.5)
    brownian = torchsde.BrownianInterval(0.0, 0.9, size=x.shape, entropy=0)
    with torch.no_grad():
        y = torchsde.sdeint(reverse, x, torch.tensor([0.0, 0.9]), bm=brownian, dt=0.02, method="euler")[-1]
    assert y.square().mean().item() == pytest.approx(wells.VARIANCE, abs=0.08)


@dataclasses.dataclass(frozen=True)
class Explosive(wells.Quartic):
    def drift(self, x, t):
        return -(x**5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pass shape=.* or states x="),
        ({"shape": (2, 1), "x": torch.zeros(2, 1)}, "one of them"),
        ({"shape": (2, 1), "steps": 0}, "steps must be a whole number, at least 1, got 0"),
        ({"shape": (2, 1), "steps": 3, "grid": [1.0, 0.5]}, "a grid has its own number of steps, got steps=3"),
        ({"shape": (2, 1), "grid": [0.1, 0.5]}, r"grid must decrease .* pass grid.flip\(0\)"),
        ({"shape": (2, 1), "grid": [0.5]}, "at least one step"),
        ({"shape": (2, 1), "eta": -1.0}, "eta must be"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        simulate_reverse(STATIONARY, **options)


def test_paths_that_run_away_say_so():
    with pytest.raises(ArithmeticError, match="ran away to infinity in 20 steps"):
        simulate_reverse(ScoreNetwork(Nothing(), Explosive(), prior=False), x=torch.full((2, 1), 4.0), steps=20)


def test_a_network_of_another_shape_is_refused():
    class Flat(nn.Module):
        def forward(self, x, t):
            return x[:, 0]

    with pytest.raises(ValueError, match=r"the score has shape \(3,\) for states of shape \(3, 1\)"):
        simulate_reverse(ScoreNetwork(Flat(), sd.VPSDE()), shape=(3, 1))


def test_the_page_on_own_processes_runs(monkeypatch):
    from sde_diffusion.losses.implicit import SlicedScoreMatching
    from sde_diffusion.sdes.simulation import simulate

    for thing in (ScoreNetwork, SlicedScoreMatching, simulate, simulate_reverse):
        monkeypatch.setattr(sd, thing.__name__, thing, raising=False)
    page = (Path(__file__).parents[2] / "docs" / "own_sde.md").read_text()
    code = "\n".join(part.split("```")[0] for part in page.split("```python\n")[1:])
    assert "range(3000)" in code
    assert "steps=500" in code
    names: dict = {"__name__": "page"}
    monkeypatch.setitem(sys.modules, "page", types.ModuleType("page"))  # where dataclasses look for annotations
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(code.replace("range(3000)", "range(20)").replace("steps=500", "steps=50").replace("10_000", "500"), names)
    assert names["x"].shape == (500, 1)
    assert names["x"].abs().mean().item() == pytest.approx(1, abs=0.4)
    assert names["path"].shape == (101, 1000, 1)
    assert names["flow"](0.5, names["x"]).isfinite().all()
    prior = names["Process"]().prior_sample((20_000, 1), generator=torch.Generator().manual_seed(0))
    assert prior.var().item() == pytest.approx(wells.VARIANCE, abs=0.03)
    assert names["Process"]().prior_std == pytest.approx(math.sqrt(wells.VARIANCE), abs=1e-3)
