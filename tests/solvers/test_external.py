"""torchsde's and SciPy's integrators as solvers, against the Gaussian law."""

import math

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.solvers.external import SCIPY, TORCHSDE, ScipyODE, TorchSDE

MEAN, STD = torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.2])


def gaussian(sde: sd.AffineSDE) -> sd.GaussianDenoiser:
    return sd.GaussianDenoiser(MEAN, STD, sde)


def exact_flow(sde: sd.AffineSDE, x: torch.Tensor, t: float, s: float) -> torch.Tensor:
    """On Gaussian data the flow keeps (x - mean_t)/std_t."""
    scale = [torch.sqrt((sde.alpha(u) * STD.double()) ** 2 + sde.sigma(u) ** 2) for u in (t, s)]
    return sde.alpha(s) * MEAN + scale[1] / scale[0] * (x - sde.alpha(t) * MEAN)


@pytest.mark.parametrize("method", SCIPY)
def test_scipy_ends_where_the_gaussian_flow_ends(method):
    sde = sd.VPSDE()
    x = sde.prior_sample((3, 2), sd.PerSample(range(3)), dtype=torch.float64)
    end = sd.sample(gaussian(sde), ScipyODE(method, rtol=1e-7, atol=1e-7), x=x)
    torch.testing.assert_close(end, exact_flow(sde, x, 1.0, 1e-3), rtol=0, atol=1e-4)


@pytest.mark.parametrize("sde", [sd.VESDE(t_min=1e-3), sd.RectifiedFlow()], ids=repr)
def test_scipy_reports_at_the_times_of_the_grid(sde):
    grid = [sde.t_max, 0.5, 0.1]
    x = sde.prior_sample((3, 2), sd.PerSample(range(3)), dtype=torch.float64)
    seen = []
    times, path = sd.trajectory(gaussian(sde), ScipyODE("DOP853", 1e-9, 1e-9), x=x, grid=grid, callback=seen.append)
    assert times.tolist() == grid
    for t, state in zip(grid, path, strict=True):
        torch.testing.assert_close(state, exact_flow(sde, x, grid[0], t), rtol=1e-6, atol=1e-6)
    assert [step.i for step in seen] == [1, 2]


@pytest.mark.parametrize(("method", "slack"), [("euler", 0.02), ("milstein", 0.02), ("srk", 0.01), ("heun", 0.01), ("midpoint", 0.01)])
def test_torchsde_reaches_the_gaussian_law(method, slack):
    # 4 standard errors of 4000 draws; slack: the method's own bias at 100 steps, Euler's (systems.md O1) 0.006 in the mean, 0.008 in std
    n, counter = 4000, sd.NFECounter(gaussian(sd.VPSDE()))
    x = sd.sample(counter, TorchSDE(method), shape=(n, 2), steps=100, seeds=range(n))
    assert ((x.mean(0) - MEAN).abs() < 4 * STD / math.sqrt(n) + slack).all()
    assert ((x.std(0) - STD).abs() < 4 * STD / math.sqrt(2 * n) + slack).all()
    assert counter.nfe == {"euler": 100, "milstein": 100, "srk": 900}.get(method, counter.nfe)


def test_torchsdes_euler_is_euler_maruyama():
    denoiser, n, steps = gaussian(sd.VPSDE()), 4000, 20
    x = denoiser.sde.prior_sample((n, 2), sd.PerSample(range(n)), dtype=torch.float64)
    paths = [sd.trajectory(denoiser, solver, x=x, steps=steps)[1] for solver in (TorchSDE(eta=0), sd.EulerMaruyama(eta=0))]
    torch.testing.assert_close(*paths, rtol=1e-9, atol=1e-9)
    # with noise in law: two sets of n draws, 4 standard errors
    ends = [sd.sample(denoiser, solver, x=x, steps=steps, seeds=range(n)) for solver in (TorchSDE(), sd.EulerMaruyama())]
    std = ends[1].std(0)
    assert ((ends[0].mean(0) - ends[1].mean(0)).abs() < 4 * std * math.sqrt(2 / n)).all()
    assert ((ends[0].std(0) - std).abs() < 4 * std * math.sqrt(1 / n)).all()


def test_torchsde_with_automatic_steps_follows_the_tolerance():
    denoiser, x = gaussian(sd.VPSDE()), torch.ones(4, 2, dtype=torch.float64)
    errors = []
    for tolerance in (1e-1, 1e-3):
        solver = TorchSDE("heun", eta=0, adaptive=True, rtol=tolerance, atol=tolerance)
        errors.append((sd.sample(denoiser, solver, x=x, grid=[1.0, 0.5, 1e-3]) - exact_flow(denoiser.sde, x, 1.0, 1e-3)).abs().max())
    assert errors[1] < errors[0] / 10
    assert errors[1] < 1e-2


@pytest.mark.parametrize("method", TORCHSDE)
def test_torchsdes_randomness_is_that_of_the_noise_source(method):
    denoiser, x = sd.GaussianDenoiser(torch.zeros(1, 2, 2), 0.5, sd.VESDE(0.01, 5.0)), torch.ones(3, 1, 2, 2)

    def draw(seed: int) -> torch.Tensor:
        return sd.sample(denoiser, TorchSDE(method), x=x, steps=4, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert draw(0).shape == x.shape


def test_a_condition_and_a_corrector_reach_both():
    class Constant(sd.Denoiser):
        def forward(self, x, t, cond=None):
            return torch.full_like(x, cond)

    denoiser = Constant(sd.VPSDE())
    moved = []

    def move(x: torch.Tensor, t: float) -> tuple[torch.Tensor, int]:
        moved.append(t)
        return x * 0, 5

    for solver in (ScipyODE(), TorchSDE(eta=0, dt=0.005)):
        end = sd.sample(denoiser, solver, x=torch.ones(2, 2), grid=[1.0, 0.5, 1e-3], steps=2, cond=3.0, seeds=[0, 1])
        assert end.mean() == pytest.approx(3.0, abs=0.1)
        moved.clear()
        grid = torch.tensor([1.0, 0.5], dtype=torch.float64)
        *_, step = solver.solve(denoiser, torch.ones(2, 2), grid, torch.zeros_like, 3.0, move)
        assert (step.x == 0).all()
        assert moved == [0.5]
        assert step.nfe > 5


def test_failures_say_why():
    nowhere = sd.GaussianDenoiser(math.nan, 1.0, sd.VPSDE())
    with pytest.raises(ArithmeticError, match="not finite at t="):
        sd.sample(nowhere, TorchSDE(), shape=(2, 1), steps=3, seeds=[0, 1])
    with pytest.raises(ArithmeticError, match=r"made 10 network calls and has not arrived .*max_nfe"):
        sd.sample(gaussian(sd.VPSDE()), ScipyODE(max_nfe=10), shape=(2, 2), seeds=[0, 1])
    with pytest.raises(ArithmeticError, match=r"ScipyODE.* (stopped before|reached a state that is not finite)"):
        sd.sample(nowhere, ScipyODE("LSODA", max_nfe=500), shape=(2, 1), seeds=[0, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScipyODE("Euler"), "method must be 'RK23'.* or 'LSODA', got 'Euler'"),
        (lambda: ScipyODE(rtol=0), "rtol must be a positive number, got 0"),
        (lambda: ScipyODE(max_nfe=-1), "max_nfe must be"),
        (lambda: TorchSDE("rk4"), "method must be 'euler'.* or 'reversible_heun', got 'rk4'"),
        (lambda: TorchSDE(eta=-1), "eta must be between 0"),
        (lambda: TorchSDE(dt=0), "dt must be a positive number, got 0"),
    ],
)
def test_wrong_options_are_refused_with_their_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("solver", [ScipyODE("LSODA", 1e-3), TorchSDE("srk", 0.5, dt=0.01), TorchSDE(adaptive=True)], ids=repr)
def test_they_print_as_what_makes_them_and_have_no_table(solver):
    assert sd.build(repr(solver), {"ScipyODE": ScipyODE, "TorchSDE": TorchSDE}) == solver
    with pytest.raises(ValueError, match="has no table"):
        solver.tableau(sd.VPSDE(), torch.tensor([1.0, 0.5], dtype=torch.float64))
