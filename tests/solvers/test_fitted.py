"""Solvers fitted to a model: on exact mixtures, where the error of a path is known."""

import itertools
import math

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.solvers.fitted_grid import local_errors, shortest_grid
from sde_diffusion.solvers.unrolled import Layout, predict

VP = sd.VPSDE()


def ring(sde):
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    return sd.GaussianMixtureDenoiser(1.4 * torch.stack([angles.cos(), angles.sin()], 1), 0.1, None, sde)


def starts(sde, n, seed):
    return sde.prior_sample((n, 2), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def errors(denoiser, solver, x, **options):
    end = sd.sample(denoiser, sd.AdaptiveODE(rtol=1e-9, atol=1e-9), x=x)
    return (sd.sample(denoiser, solver, x=x, **options) - end).square().mean(1).sqrt()


@pytest.fixture(scope="module")
def trajectories():
    return sd.Trajectories.generate(ring(VP), shape=(160, 2), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def fitted(trajectories):
    return sd.fit(ring(VP), 6, trajectories=trajectories, iterations=60)


def test_on_fresh_starts_the_error_is_a_small_part_of_the_base(fitted):
    denoiser, x = ring(VP), starts(VP, 512, 77)
    counter = sd.NFECounter(denoiser)
    ours, base = errors(denoiser, fitted, x), errors(denoiser, "auto", x, nfe=6)
    sd.sample(counter, fitted, x=x)
    assert counter.nfe == fitted.nfe == 6
    assert ours.median() < 0.1 * base.median()
    assert ours.square().mean().sqrt() < 0.5 * base.square().mean().sqrt()


@pytest.mark.parametrize("sde", [sd.VESDE(), sd.EDMSDE(), sd.RectifiedFlow(), sd.SubVPSDE(), sd.CosineVPSDE()], ids=repr)
def test_it_fits_every_continuous_process(sde):
    denoiser = ring(sde)
    solver = sd.fit(denoiser, 5, shape=(64, 2), generator=torch.Generator().manual_seed(0), iterations=20)
    x = starts(sde, 256, 5)
    assert solver.improved
    assert errors(denoiser, solver, x).median() < 0.5 * errors(denoiser, "auto", x, nfe=5).median()


def test_a_constant_prediction_is_reproduced_exactly(fitted):
    class Constant(sd.Denoiser):
        def forward(self, x, t, cond=None):
            return torch.full_like(x, 0.7)

    x = starts(VP, 16, 1)
    end, start = VP.t_min, VP.t_max
    exact = VP.alpha(end) * 0.7 + VP.sigma(end) / VP.sigma(start) * (x - VP.alpha(start) * 0.7)
    torch.testing.assert_close(sd.sample(Constant(VP), fitted, x=x), exact, rtol=0, atol=1e-12)


def test_weights_differ_with_the_model_and_not_with_the_sample(fitted):
    again = sd.FittedSolver(fitted.table, fitted.sde, fitted.base, fitted.errors)
    x = starts(VP, 8, 3)
    torch.testing.assert_close(sd.sample(ring(VP), again, x=x)[:3], sd.sample(ring(VP), fitted, x=x[:3]), rtol=1e-12, atol=1e-12)


def test_the_table_runs_in_the_loop_as_the_fit_unrolled_it(trajectories):
    layout = Layout(VP, 4)
    log_rho = torch.linspace(*layout.log_rho, 6, dtype=torch.float64)[1:]
    generator = torch.Generator().manual_seed(0)
    rows = [0.3 * torch.randn(k - 1, generator=generator, dtype=torch.float64) for k in range(1, 5)]
    shifts = torch.tensor([0.1, -0.2, 0.0, 0.15], dtype=torch.float64)
    v = layout.vector(log_rho, rows, shifts)
    x = trajectories.states[0]
    unrolled, _ = layout.run(ring(VP), x / VP.alpha(VP.t_max), v)
    torch.testing.assert_close(sd.sample(ring(VP), layout.table(v), x=x), unrolled * VP.alpha(VP.t_min), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "solver", [sd.AdamsBashforth(4), sd.DPMSolverPP(3), sd.UniPC(3), sd.Heun(), sd.DEIS(3), sd.auto(VP, 6).solver], ids=str
)
def test_hand_derived_tables_are_of_its_form(solver, trajectories):
    table = solver.tableau(VP, sd.vp_power(VP, 6))
    layout = Layout(VP, len(table.calls))
    v = layout.unroll(table)
    assert v is not None
    x = trajectories.states[0]
    unrolled, _ = layout.run(ring(VP), x / VP.alpha(VP.t_max), v)
    # the first gap cannot be zero, so that the first call is asked a thousandth of the range of log rho later
    torch.testing.assert_close(unrolled * VP.alpha(VP.t_min), sd.sample(ring(VP), table, x=x), rtol=0, atol=2e-2)


def test_the_derivative_by_the_time_of_a_call_is_that_of_the_denoiser():
    denoiser, z = ring(VP), starts(VP, 4, 0)
    level = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(predict(denoiser, z, level, None).sum(), level)
    h = 1e-5
    with torch.no_grad():
        difference = (predict(denoiser, z, level + h, None) - predict(denoiser, z, level - h, None)).sum() / (2 * h)
    torch.testing.assert_close(slope, difference, rtol=1e-6, atol=1e-8)


def test_memory_does_not_grow_with_the_networks_activations():
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        network = sd.MLP(dim=2)
    denoiser = sd.NetworkDenoiser(network, VP, sd.EDM(sigma_data=0.7)).requires_grad_(False)
    z = torch.randn(64, 2, generator=generator)

    def kept(n, run):
        size = 0

        def pack(tensor):
            nonlocal size
            size += tensor.numel()
            return tensor

        layout = Layout(VP, n)
        v = layout.vector(torch.linspace(*layout.log_rho, n + 2, dtype=torch.float64)[1:], [torch.zeros(k) for k in range(n)])
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run(layout, v.requires_grad_())
        return size

    one_call = kept(1, lambda layout, v: predict(denoiser, z + v.sum(), layout.levels(v)[1][0], None))
    grows = kept(9, lambda layout, v: layout.run(denoiser, z, v)) - kept(8, lambda layout, v: layout.run(denoiser, z, v))
    assert grows < 0.1 * one_call


def test_the_grid_is_the_shortest_path(trajectories):
    denoiser = ring(VP)
    few = sd.Trajectories(trajectories.sde, trajectories.times[::6], trajectories.states[::6], trajectories.weights)
    e, m = local_errors(denoiser, few), len(few.times) - 1

    def cost(path):
        total, h = 0.0, path[0]
        for i, j in itertools.pairwise(path):
            total, h = total + float(e[h, i, j]), i
        return total

    inner = [(a, b) for a in range(1, m) for b in range(a + 1, m)]
    best = min(((0, a, b, m) for a, b in inner), key=cost)
    assert torch.equal(shortest_grid(denoiser, few, 3), few.times[list(best)])


def test_hard_starts_are_kept_and_weighted_back(trajectories):
    sde, denoiser = VP, ring(VP)
    x = sde.prior_sample((160 * 8, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    everyone = x.square().sum(1).mean()
    chosen = (trajectories.states[0].square().sum(1) * trajectories.weights).sum()
    assert abs(chosen - everyone) < 0.15 * everyone  # 160 draws of a chi-square with 2 degrees of freedom: 0.08
    spread = errors(denoiser, sd.DDIM(), x, steps=10)
    hard = errors(denoiser, sd.DDIM(), trajectories.states[0], steps=10)
    assert hard.mean() > 1.2 * spread.mean()
    assert abs((hard * trajectories.weights).sum() - spread.mean()) < 0.15 * spread.mean()


def test_the_flow_is_solved_to_its_tolerance(trajectories):
    end = sd.sample(ring(VP), sd.AdaptiveODE(rtol=1e-11, atol=1e-11), x=trajectories.states[0])
    error = (trajectories.states[-1] - end).square().mean(1).sqrt()
    assert (error * trajectories.weights).sum() < 1e-7


def test_it_never_makes_things_worse():
    # the flow of unit variance under VP is x = const, which Euler in t follows to rounding in any number of steps
    denoiser, base = sd.GaussianDenoiser([0.0, 0.0], 1.0, VP), sd.Euler("t")
    solver = sd.fit(denoiser, 2, base=base, shape=(32, 2), generator=torch.Generator().manual_seed(0), iterations=10)
    assert not solver.improved
    assert solver.table == base.tableau(VP, base.default_grid(VP, 2))
    assert (solver.errors.rms, solver.errors.median) == (solver.errors.base_rms, solver.errors.base_median)
    assert "the table of Euler(form='t')" in repr(solver)


def test_it_reads_back_what_it_wrote(fitted, trajectories, tmp_path):
    fitted.save(tmp_path / "6.json")
    again = sd.FittedSolver.load(tmp_path / "6.json")
    assert again.table == fitted.table
    assert (again.sde, again.base, again.errors, again.improved) == (fitted.sde, fitted.base, fitted.errors, fitted.improved)
    assert repr(again) == repr(fitted)
    with pytest.raises(FileExistsError):
        fitted.save(tmp_path / "6.json")
    trajectories.save(tmp_path / "paths.safetensors")
    loaded = sd.Trajectories.load(tmp_path / "paths.safetensors")
    assert torch.equal(loaded.states, trajectories.states)
    assert torch.equal(loaded.weights, trajectories.weights)
    with pytest.raises(FileExistsError):
        trajectories.save(tmp_path / "paths.safetensors")
    for load in (sd.FittedSolver.load, sd.Trajectories.load):
        (tmp_path / "other").write_text("{}")
        with pytest.raises(ValueError, match="other holds no"):
            load(tmp_path / "other")


def test_a_fit_is_repeatable(trajectories):
    first, second = (sd.fit(ring(VP), 3, trajectories=trajectories, iterations=6) for _ in range(2))
    assert first.table == second.table


def test_conditions_stay_with_their_paths():
    class Two(sd.Denoiser):
        def __init__(self):
            super().__init__(VP)
            self.inner = ring(VP)

        def forward(self, x, t, cond=None):
            return self.inner(x, t) + cond[:, None]

    cond = torch.linspace(-1, 1, 32, dtype=torch.float64)
    made = sd.Trajectories.generate(Two(), shape=(32, 2), cond=cond, generator=torch.Generator().manual_seed(0))
    assert set(made.cond.tolist()) <= set(cond.tolist())
    end = sd.sample(Two(), sd.AdaptiveODE(rtol=1e-9, atol=1e-9), x=made.states[0].double(), cond=made.cond)
    assert (end - made.states[-1]).abs().median() < 1e-4
    assert sd.fit(Two(), 3, trajectories=made, iterations=4).improved


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pass either trajectories"),
        ({"shape": (8, 2), "base": sd.EulerMaruyama()}, "draws noise"),
        ({"shape": (8, 2), "base": sd.AdaptiveODE()}, "has no table"),
        ({"shape": (8,)}, "shape must be"),
        ({"shape": (8, 2), "nfe": 0}, "nfe"),
        ({"shape": (8, 2), "nfe": 60}, "nodes"),
    ],
)
def test_what_cannot_be_fitted_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sd.fit(ring(VP), options.pop("nfe", 2), **options)


def test_another_process_is_refused(fitted, trajectories):
    with pytest.raises(ValueError, match="was fitted for VPSDE"):
        sd.sample(ring(sd.VESDE()), fitted, shape=(4, 2))
    with pytest.raises(ValueError, match="trajectories are of VPSDE"):
        sd.fit(ring(sd.VESDE()), 3, trajectories=trajectories)
    with pytest.raises(ValueError, match="continuous"):
        sd.fit(ring(VP).under(VP.discretize(100)), 3, shape=(4, 2))
    x = starts(VP, 4, 0)
    torch.testing.assert_close(  # the cure in the message
        sd.sample(ring(sd.VESDE(sigma_max=200.0)).under(VP), fitted, x=x), sd.sample(ring(VP), fitted, x=x), rtol=1e-6, atol=1e-6
    )
