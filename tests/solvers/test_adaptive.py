import collections

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import sde_diffusion as sd
from sde_diffusion.solvers.adaptive import PAIRS, select
from sde_diffusion.solvers.clock import FORMS, Clock
from sde_diffusion.solvers.external import ScipyODE


def mixture(sde: sd.AffineSDE) -> sd.GaussianMixtureDenoiser:
    generator = torch.Generator().manual_seed(5)
    means = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    return sd.GaussianMixtureDenoiser(means, 0.3, None, sde)


def start(sde: sd.AffineSDE, n: int = 8) -> torch.Tensor:
    return sde.prior_sample((n, 4), sd.PerSample(range(n)), dtype=torch.float64)


def reference(denoiser: sd.Denoiser, x: torch.Tensor) -> torch.Tensor:
    sde = denoiser.sde
    flow = sde.reverse(denoiser, eta=0, shape=x.shape)
    end = solve_ivp(flow, (sde.t_max, sde.t_min), x.numpy().ravel(), method="DOP853", rtol=1e-10, atol=1e-10).y[:, -1]
    return torch.from_numpy(end).reshape(x.shape)


SDES = [sd.VPSDE(), sd.VESDE(t_min=1e-3), sd.RectifiedFlow(t_max=0.99)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sde", [*SDES, sd.SubVPSDE()], ids=repr)
def test_every_form_is_the_probability_flow(sde, form):
    # d(w n)/dt = n dw/dp dp/dt + w dn/dt, with dp/dt and dn/dt by central differences
    denoiser, clock, h = mixture(sde), Clock(sde, 0.7, form), 1e-5
    t = torch.linspace(0.1, 0.9, 8, dtype=torch.float64)
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    at = clock.slope(clock(t), 1.0, 0.0)
    torch.testing.assert_close(at.levels.time(), t, rtol=1e-10, atol=1e-12)
    n, a, b = at.n[:, None], at.a[:, None], at.b[:, None]
    p_t, n_t = ((f(t + h) - f(t - h))[:, None] / (2 * h) for f in (clock, clock.scale))
    v = n * (a * x / n + b * denoiser(x, t)) * p_t + x / n * n_t
    torch.testing.assert_close(v, denoiser.v(x, t), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_the_weights_meet_the_conditions_of_their_order(pair):
    # y' = y^k-type trees: b c^(k-1) = 1/k for all k <= order; row sums are the nodes; the error estimate is of order - 1
    c = np.array([0.0, *pair.c, 1.0][: len(pair.a) + 1])
    b = np.array([*pair.a[-1], 0.0])
    for node, row in zip(c[1:], pair.a, strict=True):
        assert sum(row) == pytest.approx(node, abs=1e-14)
    for k in range(1, pair.order + 1):
        assert b @ c ** (k - 1) == pytest.approx(1 / k, abs=1e-14)
        moment = np.array(pair.e) @ c ** (k - 1)
        assert moment == pytest.approx(0, abs=1e-14) if k < pair.order else abs(moment) > 1e-5


def test_straight_paths_take_two_steps_in_the_velocity_form():
    # x0_hat is constant, so (3) is integrated exactly; the second step, five times the first, may take all the rest
    class Constant(sd.Denoiser):
        def forward(self, x, t, cond=None):
            return torch.ones_like(x)

    seen, x = [], torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sde = sd.VPSDE()
    end = sd.sample(Constant(sde), sd.AdaptiveODE(form="velocity"), x=x, callback=seen.append)
    eps = (x - sde.alpha(1.0)) / sde.sigma(1.0)
    torch.testing.assert_close(end, sde.alpha(1e-3) + sde.sigma(1e-3) * eps, rtol=1e-12, atol=1e-12)
    assert seen[-1].nfe <= 1 + 4 * 6


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_the_error_follows_the_tolerance(sde):
    denoiser, x = mixture(sde), start(sde)
    exact = reference(denoiser, x)
    options = [("dopri5", form, tolerance) for form in FORMS for tolerance in (1e-3, 1e-5, 1e-7) if form != "t"]
    for method, form, tolerance in [*options, ("bosh3", "angle", 1e-3), ("bosh3", "velocity", 1e-4)]:
        end = sd.sample(denoiser, sd.AdaptiveODE(method, tolerance, tolerance, form), x=x)
        errors = (end - exact).abs().amax(1)
        assert errors.median() < 10 * tolerance
        assert errors.max() < 1000 * tolerance  # paths near a separatrix magnify every error


@pytest.mark.parametrize("form", FORMS)
def test_scipys_methods_and_the_native_one_agree(form):
    denoiser = mixture(sd.VPSDE())
    x = start(denoiser.sde)
    native, scipy = (sd.sample(denoiser, s, x=x) for s in (sd.AdaptiveODE(rtol=1e-8, atol=1e-8, form=form), ScipyODE(rtol=1e-8, atol=1e-8)))
    assert (native - scipy).abs().max() < 1e-5


def test_the_flow_there_and_back_returns_to_the_data():
    # row A17: the round trip data -> noise -> data of the ring stays within 1e-4 at tolerance 1e-5
    angles = torch.arange(8, dtype=torch.float64) * torch.pi / 4
    ring = sd.GaussianMixtureDenoiser(torch.stack([angles.cos(), angles.sin()], 1), 0.1, None, sd.VPSDE(t_min=1e-5))
    x = ring.sample_data(200, generator=torch.Generator().manual_seed(0))
    solver = sd.AdaptiveODE(rtol=1e-6, atol=1e-6)
    down = torch.tensor([1.0, 1e-5], dtype=torch.float64)
    *_, noise = solver.solve(ring, x, down.flip(0), torch.zeros_like)
    *_, data = solver.solve(ring, noise.x, down, torch.zeros_like)
    assert (data.x - x).abs().max() < 1e-4
    assert noise.x.std() == pytest.approx(1.0, abs=0.1)


def test_the_flow_of_vp_and_of_its_ve_image_are_one():
    vp = mixture(sd.VPSDE())
    ve = vp.under(sd.VESDE(sigma_min=0.005, sigma_max=200.0))
    x = start(vp.sde)
    grid = torch.tensor([1.0, 0.5, 0.1, 0.01], dtype=torch.float64)
    ve_grid = ve.sde.t_of_log_snr(vp.sde.log_snr(grid))
    solver = ScipyODE(rtol=1e-9, atol=1e-9)
    _, path = sd.trajectory(vp, solver, x=x, grid=grid)
    _, image = sd.trajectory(ve, solver, x=x / vp.sde.alpha(1.0), grid=ve_grid)
    torch.testing.assert_close(path / vp.sde.alpha(grid)[:, None, None], image, rtol=1e-5, atol=1e-5)


RING = torch.stack([(torch.arange(8) * torch.pi / 4).cos(), (torch.arange(8) * torch.pi / 4).sin()], 1).double()


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("grid", [[1.0, 1e-3], [1.0, 0.3, 0.2, 1e-3]])
def test_a_samples_steps_do_not_depend_on_its_companions(grid, compact):
    ring = sd.GaussianMixtureDenoiser(RING, 0.1, None, sd.VPSDE())
    x, times = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).double(), torch.tensor(grid).double()
    solver = sd.AdaptiveODE(compact=compact)
    *_, whole = solver.solve(ring, x, times, torch.zeros_like)
    for i in range(0, 40, 2):
        *_, alone = solver.solve(ring, x[i : i + 1], times, torch.zeros_like)
        torch.testing.assert_close(whole.x[i : i + 1], alone.x, rtol=1e-11, atol=1e-11)
        assert whole.rejected[i] == alone.rejected[0]


def test_the_cost_follows_the_mean_and_not_the_slowest_sample():
    # the ring at 1e-5: RK45 in t, score_sde's way, makes 92, 86 and 104 calls for 1024 samples of three seeds
    sizes = []

    class Watching(sd.GaussianMixtureDenoiser):
        def forward(self, x, t, cond=None):
            assert len(t) == len(x) == len(cond["who"]) == len(cond["pair"][0])
            sizes.append(len(x))
            return super().forward(x, t)

    n, seen = 256, []
    ring, who = Watching(RING, 0.1, None, sd.VPSDE()), torch.arange(n)
    cond = {"who": who, "pair": (who, "text", None)}
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    end = sd.sample(ring, sd.AdaptiveODE(), x=x, cond=cond, callback=seen.append)
    step = seen[-1]
    assert sum(sizes) == step.evaluations.sum()
    assert len(sizes) == step.nfe == step.evaluations.max() <= 86
    assert step.evaluations.double().mean() < 62  # 58.5
    sizes.clear()
    together = sd.sample(ring, sd.AdaptiveODE(compact=False), x=x, cond=cond)
    torch.testing.assert_close(together, end, rtol=1e-11, atol=1e-11)
    assert set(sizes) == {n}


def test_a_condition_is_thinned_out_wherever_it_is_per_sample():
    Pair = collections.namedtuple("Pair", "a b")
    index, table = torch.tensor([2, 0]), torch.arange(3)
    assert select(None, index, 3) is None
    assert select(table, index, 3).tolist() == [2, 0]
    assert select(torch.arange(4), index, 3).tolist() == [0, 1, 2, 3]  # shared by all
    chosen = select({"a": [table, 1.5], "b": Pair(table, "x")}, index, 3)
    assert chosen["a"][0].tolist() == chosen["b"].a.tolist() == [2, 0]
    assert (chosen["a"][1], chosen["b"].b) == (1.5, "x")


def test_gradients_flow_through_all_steps():
    # On Gaussian data x_s is affine in x_t with slope std_s/std_t.
    sde = sd.VPSDE()
    x = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    end = sd.sample(
        sd.GaussianDenoiser(1.0, 0.5, sde), sd.AdaptiveODE(rtol=1e-7, atol=1e-7), x=x, grid=[1.0, 0.3, 1e-3], differentiable=True
    )
    (slope,) = torch.autograd.grad(end.sum(), x)
    stds = [torch.hypot(0.5 * sde.alpha(t), sde.sigma(t)) for t in (1.0, 1e-3)]
    torch.testing.assert_close(slope, (stds[1] / stds[0]).expand(3, 1), rtol=1e-5, atol=0)


def test_a_corrector_moves_the_state_at_the_times_of_the_grid():
    denoiser, moved = mixture(sd.VPSDE()), []

    def move(x: torch.Tensor, t: float) -> tuple[torch.Tensor, int]:
        moved.append(t)
        return torch.zeros_like(x), 2

    counter = sd.NFECounter(denoiser)
    times = torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)
    first, second = sd.AdaptiveODE().solve(counter, start(denoiser.sde), times, torch.zeros_like, None, move)
    assert moved == [0.5, 0.1]
    assert (first.x == 0).all()
    assert (second.x == 0).all()
    assert second.nfe == counter.nfe + 2 * 2


def test_no_call_lies_outside_the_interval():
    called = []

    class Watching(sd.GaussianDenoiser):
        def forward(self, x, t, cond=None):
            called.append(t)
            return super().forward(x, t, cond)

    denoiser = Watching(0.0, 0.5, sd.VPSDE())
    seen = []
    sd.sample(denoiser, sd.AdaptiveODE(), shape=(4, 1), seeds=range(4), callback=seen.append)
    times = torch.cat(called)
    assert times.min() >= 1e-3 * (1 - 1e-9)
    assert times.max() <= 1 + 1e-9
    assert seen[-1].nfe == len(called)
    assert seen[-1].rejected.shape == (4,)


def test_an_unreachable_tolerance_is_an_error_that_says_where():
    class Rough(torch.nn.Module):
        def forward(self, x, c_noise):
            return torch.sin(1e4 * x)  # changes faster than float32 can step

    denoiser = sd.NetworkDenoiser(Rough(), sd.VPSDE(), sd.X0())
    with pytest.raises(ArithmeticError, match=r"network calls and has not arrived|cannot meet its tolerance"):
        sd.sample(denoiser, sd.AdaptiveODE(rtol=1e-9, atol=1e-9, max_nfe=500), shape=(2, 2), seeds=[0, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "rk45"}, "method must be 'dopri5' or 'bosh3', got 'rk45'; ScipyODE has others"),
        ({"form": "sigma"}, "form must be 'angle', 'velocity', 'log_snr' or 't', got 'sigma'"),
        ({"data_std": 0}, "data_std must be a positive number, got 0"),
        ({"max_nfe": 7}, "max_nfe must be at least 8, the calls of one step, got 7"),
    ],
)
def test_wrong_options_are_refused_with_their_value(options, message):
    with pytest.raises(ValueError, match=message):
        sd.AdaptiveODE(**options)


@pytest.mark.parametrize("form", ["angle", "velocity"])
def test_the_flow_starts_where_no_signal_is_left(form):
    # alpha = 0 and sigma/alpha infinite at t = 1 of a rectified flow; on Gaussian data x = mean_t + std_t z all along
    denoiser = sd.GaussianDenoiser(1.0, 0.5, sd.RectifiedFlow())
    z = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    end = sd.sample(denoiser, sd.AdaptiveODE(rtol=1e-8, atol=1e-8, form=form), x=z, grid=[1.0, 0.2])
    torch.testing.assert_close(end, 0.8 + np.hypot(0.8 * 0.5, 0.2) * z, rtol=0, atol=1e-6)


def test_recorded_steps_are_the_steps_that_are_not_recorded():
    denoiser = mixture(sd.VPSDE())
    x = start(denoiser.sde)
    recorded = sd.sample(denoiser, sd.AdaptiveODE(), x=x.clone().requires_grad_(), differentiable=True)
    torch.testing.assert_close(recorded.detach(), sd.sample(denoiser, sd.AdaptiveODE(), x=x), rtol=1e-12, atol=1e-12)
