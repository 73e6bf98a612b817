import pytest
import torch

import sde_diffusion as sd


def mixture(sde: sd.AffineSDE) -> sd.GaussianMixtureDenoiser:
    return sd.GaussianMixtureDenoiser([[1.0, 0.0, -1.0], [-1.0, 0.5, 0.5]], [0.3, 0.5], [0.4, 0.6], sde)


SOLVERS = [
    sd.EulerMaruyama(),
    sd.ReverseDiffusion(),
    sd.Ancestral(),
    sd.DDIM(eta=0.5),
    sd.Heun(),
    sd.Langevin(),
    sd.Langevin(norm="sample"),
    sd.AnnealedLangevin(epsilon=1e-3, steps=2),
    sd.PredictorCorrector(),
    sd.PredictorCorrector(first="corrector", corrector=sd.Langevin(steps=2)),
    sd.FinalDenoise(sd.PredictorCorrector(sd.EulerMaruyama())),
    sd.AdaptiveODE(rtol=1e-5, atol=1e-5),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_sample_depends_on_its_own_seed_and_not_on_its_batch(solver):
    denoiser = mixture(sd.VPSDE())
    steps = None if isinstance(solver, sd.AdaptiveODE) else 6
    seeds = [3, 1, 4, 1, 5]
    whole = sd.sample(denoiser, solver, shape=(5, 3), steps=steps, seeds=seeds)
    parts = [sd.sample(denoiser, solver, shape=(len(part), 3), steps=steps, seeds=part) for part in ([3, 1], [4], [1, 5])]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole[1], whole[3], rtol=0, atol=0)


def test_the_papers_batch_norm_does_couple_samples():
    denoiser, solver = mixture(sd.VPSDE()), sd.PredictorCorrector(corrector=sd.Langevin(norm="batch"))
    whole = sd.sample(denoiser, solver, shape=(5, 3), steps=6, seeds=range(5))
    alone = sd.sample(denoiser, solver, shape=(1, 3), steps=6, seeds=[0])
    assert (whole[:1] - alone).abs().max() > 1e-3


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("sde", [sd.VPSDE(), sd.SubVPSDE(), sd.VESDE(sigma_max=5.0), sd.DDPMChain(sd.linear_betas(40))], ids=type)
def test_every_solver_runs_on_every_process_and_event_shape(solver, sde):
    for dtype in (torch.float32, torch.float64):
        x = sde.prior_sample((2, 2, 3, 4), sd.Stream(torch.Generator().manual_seed(0)), dtype=dtype)
        denoiser = sd.GaussianDenoiser(torch.zeros(2, 3, 4), 0.5, sde)
        out = sd.sample(denoiser, solver, x=x, steps=5, seeds=[0, 1], grid=sd.uniform(t_min=0.1))
        assert out.shape == x.shape
        assert out.dtype == dtype
        assert out.isfinite().all()


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_the_trajectory_ends_where_the_sample_is_and_calls_back_at_each_step(solver):
    denoiser, seen = mixture(sd.VPSDE()), []
    grid = sd.uniform(denoiser.sde, 4)
    times, states = sd.trajectory(denoiser, solver, shape=(2, 3), grid=grid, seeds=[0, 1], callback=seen.append)
    end = sd.sample(denoiser, solver, shape=(2, 3), grid=grid, seeds=[0, 1])
    torch.testing.assert_close(states[-1], end, rtol=0, atol=0)
    torch.testing.assert_close(times[:5], grid, rtol=0, atol=0)
    assert [step.i for step in seen] == list(range(1, len(times)))
    assert [step.t for step in seen] == times[1:].tolist()
    assert len(states) == len(times)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_the_calls_that_a_solver_reports_are_those_that_a_counter_counts(solver):
    counter, seen = sd.NFECounter(mixture(sd.VPSDE())), []
    steps = None if isinstance(solver, sd.AdaptiveODE) else 6
    sd.sample(counter, solver, shape=(2, 3), steps=steps, seeds=[0, 1], callback=seen.append)
    assert counter.nfe == seen[-1].nfe > 0


class Wave(torch.nn.Module):
    """A network whose answer is neither linear nor bounded by its input."""

    def forward(self, x, c_noise):
        return torch.sin(3 * x) + c_noise.reshape(-1, 1)


PARAMETERIZATIONS = [sd.Epsilon(), sd.Score(), sd.X0(), sd.V(), sd.EDM(0.7)]


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS, ids=repr)
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_folding_the_parameterization_into_the_row_changes_nothing(solver, parameterization):
    # The counter hides the network, so that every x0_hat is formed by forward.
    denoiser = sd.NetworkDenoiser(Wave(), sd.SubVPSDE(), parameterization)
    options = {"x": torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3), "grid": [1.0, 0.6, 0.2], "seeds": [0, 1]}
    predictions = []
    folded = sd.sample(denoiser, solver, callback=lambda step: predictions.append(step.x0_hat), **options)
    formed = []
    whole = sd.sample(sd.NFECounter(denoiser), solver, callback=lambda step: formed.append(step.x0_hat), **options)
    torch.testing.assert_close(folded, whole, rtol=1e-9, atol=1e-9)
    for a, b in zip(predictions, formed, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_a_prediction_is_formed_only_if_a_later_row_uses_it():
    sde = sd.VPSDE()
    grid = sd.uniform(sde, 3)
    assert sd.DDIM().tableau(sde, grid).rows[0].reused is False
    assert [row.reused for row in sd.Heun().tableau(sde, grid).rows] == [True, False] * 3


def test_a_generator_reproduces_and_the_global_stream_is_not_touched():
    denoiser, before = mixture(sd.VPSDE()), torch.get_rng_state()
    a, b = (sd.sample(denoiser, sd.EulerMaruyama(), shape=(4, 3), steps=5, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    unseeded = [sd.sample(denoiser, sd.EulerMaruyama(), shape=(4, 3), steps=5) for _ in range(2)]
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(*unseeded)
    assert torch.equal(before, torch.get_rng_state())


def test_two_solvers_on_replayed_noise_see_the_same_path():
    denoiser = mixture(sd.VPSDE())
    grid = sd.uniform(denoiser.sde, 30)
    record = sd.Record(sd.PerSample(range(3)))
    a = sd.sample(denoiser, sd.DDIM(1.0), shape=(3, 3), grid=grid, noise=record)
    b = sd.sample(denoiser, sd.Ancestral(), shape=(3, 3), grid=grid, noise=sd.Replay(record.draws))
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("solver", [sd.DDIM(), sd.Heun(), sd.EulerMaruyama(), sd.AdaptiveODE()], ids=repr)
def test_gradients_flow_through_the_sampler_only_when_asked(solver):
    denoiser = mixture(sd.VPSDE())
    x = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    assert not sd.sample(denoiser, solver, x=x, grid=[1.0, 0.5, 0.1], seeds=[0]).requires_grad

    def run(x):
        return sd.sample(denoiser, solver, x=x, grid=[1.0, 0.5, 0.1], seeds=[0], differentiable=True)

    assert torch.autograd.gradcheck(run, x, atol=1e-4, rtol=1e-3)


def test_a_network_that_writes_into_its_noise_input_does_not_change_the_next_run():
    # One sample in float64: nothing is copied on the way to the network, and what a sampler remembers was within its reach.
    class Writes(torch.nn.Module):
        def forward(self, x, c_noise):
            y = x * c_noise[:, None]
            c_noise.mul_(2)
            return y

    denoiser = sd.NetworkDenoiser(Writes(), sd.VPSDE(), sd.X0())
    x = torch.ones(1, 3, dtype=torch.float64)
    first, second = (sd.sample(denoiser, sd.DDIM(), x=x, steps=3) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_the_condition_reaches_the_network():
    class Conditional(torch.nn.Module):
        def forward(self, x, c_noise, cond):
            return x * cond[:, None]

    denoiser = sd.NetworkDenoiser(Conditional(), sd.VPSDE(), sd.X0())
    x, cond = torch.ones(2, 3), torch.tensor([0.0, 1.0])
    for solver in (sd.DDIM(), sd.PredictorCorrector(), sd.AdaptiveODE()):
        out = sd.sample(denoiser, solver, x=x, steps=3, cond=cond, seeds=[0, 0])
        assert not torch.allclose(out[0], out[1])


def test_progress_writes_a_bar_to_stderr_only(capsys):
    sd.sample(mixture(sd.VPSDE()), sd.DDIM(), shape=(1, 3), steps=3, progress=True, seeds=[0])
    out, err = capsys.readouterr()
    assert not out
    assert "3/3" in err or "step" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"pass either shape=\(b, \*d\)"),
        ({"shape": (2, 3), "x": torch.zeros(2, 3)}, "pass either shape"),
        ({"shape": (3,)}, "at least one data dimension"),
        ({"x": torch.zeros(3)}, r"floating point of shape \(b, \*d\)"),
        ({"x": torch.zeros(3, 3, dtype=torch.long)}, "floating point"),
        ({"shape": (2, 3), "steps": 0}, "steps must be a whole number, at least 1, got 0"),
        ({"shape": (2, 3), "steps": 2.5}, "steps must be a whole number, at least 1, got 2.5"),
        ({"shape": (2, 3), "nfe": 0}, "nfe must be a whole number, at least 1, got 0"),
        ({"shape": (2, 3), "nfe": 5, "steps": 4}, "nfe=5 sets the number of steps itself"),
        ({"shape": (2, 3), "grid": [1.0, 0.5, 0.1], "steps": 3}, "steps=3 contradicts a grid of 3 times"),
        ({"shape": (2, 3), "grid": [0.001, 0.5, 1.0]}, r"grid must decrease.*pass grid.flip\(0\)\?"),
        ({"shape": (2, 3), "grid": [1.0, 0.5, 0.5, 0.1]}, r"t\[1\]=0.5 <= t\[2\]=0.5"),
        ({"shape": (2, 3), "grid": [999.0, 500.0, 0.0]}, r"lie in \[0, 1\].*got 999"),
        ({"shape": (2, 3), "grid": [1.0, float("nan")]}, r"lie in \[0, 1\].*got nan"),
        ({"shape": (2, 3), "grid": [1.0]}, "at least 2 times"),
        ({"shape": (2, 3), "grid": [0.5, 0.1]}, "pass x= with the state at that time"),
        ({"shape": (2, 3), "seeds": [1, 2], "generator": torch.Generator()}, "generator and seeds each name"),
        ({"shape": (2, 3), "seeds": [1, 2, 3]}, "3 seeds for a batch of 2"),
    ],
)
def test_wrong_arguments_are_refused_with_value_cause_and_cure(options, message):
    with pytest.raises(ValueError, match=message):
        sd.sample(mixture(sd.VPSDE()), sd.DDIM(), **options)


def test_no_step_may_end_at_sigma_0_for_a_solver_that_divides_by_it():
    denoiser = mixture(sd.DDPMChain(sd.linear_betas(50)))
    with pytest.raises(ValueError, match=r"divides by sigma, which is 0 at the grid's end t=0; end it at t_min > 0, such as 1/50"):
        sd.sample(denoiser, sd.AdaptiveODE(), shape=(2, 3), grid=[1.0, 0.0])
    assert sd.sample(denoiser, sd.AdaptiveODE(), shape=(2, 3), seeds=[0, 1]).isfinite().all()


def test_a_process_whose_drift_is_not_affine_is_refused():
    class Cubic(sd.SDE):
        t_min, t_max, prior_std = 0.0, 1.0, 1.0

        def drift(self, x, t):
            return -(x**3)

        def diffusion(self, t):
            return torch.ones_like(t)

    denoiser = sd.GaussianDenoiser(0.0, 1.0, sd.VPSDE())
    denoiser.sde = Cubic()
    for model in (denoiser, sd.ScoreNetwork(torch.nn.Identity(), Cubic())):
        with pytest.raises(ValueError, match=r"need a drift f\(t\) x, got .*Cubic.*simulate_reverse.*torchsde"):
            sd.sample(model, sd.DDIM(), shape=(2, 1))
    with pytest.raises(ValueError, match="table for processes with drift"):
        sd.Heun().tableau(Cubic(), sd.uniform(sd.VPSDE(), 4))


@pytest.mark.parametrize("solver", [sd.DDIM(), "auto"], ids=str)
def test_a_score_network_and_a_process_that_still_learns_are_refused(solver):
    with pytest.raises(TypeError, match=r"ask a Denoiser for x0_hat, and ScoreNetwork is none; take simulate_reverse"):
        sd.sample(sd.ScoreNetwork(torch.nn.Identity(), sd.VPSDE()), solver, shape=(2, 1))
    denoiser = mixture(sd.LearnedVPSDE())
    with pytest.raises(ValueError, match=r"and LearnedVPSDE\(.*\) learns; take denoiser.under\(denoiser.sde.frozen\(\)\)"):
        sd.sample(denoiser, solver, shape=(2, 3))
    assert sd.sample(denoiser.under(denoiser.sde.frozen()), solver, shape=(2, 3), seeds=range(2)).isfinite().all()


@pytest.mark.parametrize("sde", [sd.VPSDE(), sd.EDMSDE(), sd.RectifiedFlow(), sd.DDPMChain(sd.linear_betas(50))], ids=repr)
@pytest.mark.parametrize("solver", [sd.Heun(), sd.DPMSolver(3), sd.UniPC(), sd.FinalDenoise(sd.DDIM()), sd.RK4()], ids=str)
def test_a_budget_of_calls_is_used_up_to_less_than_a_step_and_counted(sde, solver):
    counter = sd.NFECounter(mixture(sde))
    sd.sample(counter, solver, shape=(2, 3), nfe=13, grid=sd.log_snr if sde.length is None else None)
    assert 13 - 4 < counter.nfe <= 13


@pytest.mark.parametrize("nfe", [1, 2, 5, 20])
@pytest.mark.parametrize(
    "sde", [sd.VPSDE(), sd.VESDE(), sd.RectifiedFlow(), sd.DDPMChain(sd.linear_betas(50))], ids=lambda s: type(s).__name__
)
def test_auto_says_which_solver_it_takes_and_spends_the_budget(sde, nfe, caplog):
    counter = sd.NFECounter(mixture(sde))
    with caplog.at_level("INFO", logger="sde_diffusion"):
        x = sd.sample(counter, shape=(2, 3), nfe=nfe, generator=torch.Generator().manual_seed(0))
    solver, grid, steps = sd.auto(sde, nfe)
    assert repr(solver) in caplog.text
    assert repr(grid) in caplog.text
    assert counter.nfe == nfe
    again = sd.sample(mixture(sde), solver, grid=grid, steps=steps, shape=(2, 3), generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, again)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "ddim"}, r"solver must be 'auto', .* got 'ddim'"),
        ({"steps": 5}, "chooses steps and grid itself; pass nfe="),
        ({"solver": sd.AdaptiveODE(), "nfe": 50}, "no table"),
        ({"solver": sd.Heun(), "nfe": 1}, "makes 2 network calls in one step, got nfe=1"),
        ({"solver": sd.DDIM().tableau(sd.VPSDE(), sd.uniform(sd.VPSDE(), 4)), "steps": 4}, "a tableau has its own times"),
    ],
)
def test_what_contradicts_a_choice_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sd.sample(mixture(sd.VPSDE()), shape=(2, 3), **options)


def fitted(sde, nfe):
    """A table of its own calls, as if it were fitted."""
    errors = sd.FitErrors(1.0, 1.0, 0.5, 0.5)
    return sd.FittedSolver(sd.DDIM().tableau(sde, sd.karras(sde, nfe)), sde, "DDIM() on karras()", errors)


def test_auto_prefers_the_table_fitted_to_the_denoiser_for_exactly_its_calls_and_says_so(caplog):
    denoiser, x = mixture(sd.VPSDE()), torch.linspace(-2, 2, 6, dtype=torch.float64).reshape(2, 3)
    plain = {nfe: sd.sample(denoiser, x=x, nfe=nfe) for nfe in (5, 6)}
    denoiser.fitted = {5: fitted(denoiser.sde, 5), 20: fitted(denoiser.sde, 20)}
    with caplog.at_level("INFO", logger="sde_diffusion"):
        ours = sd.sample(denoiser, x=x, nfe=5)
    assert "auto: FittedSolver(5 calls" in caplog.text
    assert torch.equal(ours, sd.sample(denoiser, sd.DDIM(), x=x, grid=sd.karras, steps=5))
    assert not torch.equal(ours, plain[5])
    assert torch.equal(sd.sample(denoiser, x=x, nfe=6), plain[6])
    assert torch.equal(sd.sample(denoiser, x=x), sd.sample(denoiser, denoiser.fitted[20], x=x))
    assert torch.equal(sd.trajectory(denoiser, x=x, nfe=5)[1][-1], ours)
    assert sd.NFECounter(denoiser).fitted == denoiser.fitted
    assert denoiser.under(sd.VESDE()).fitted == {}


def test_a_fitted_table_takes_its_own_number_of_calls_and_steps_and_no_other():
    denoiser, x = mixture(sd.VPSDE()), torch.linspace(-2, 2, 6, dtype=torch.float64).reshape(2, 3)
    solver = fitted(denoiser.sde, 5)
    alone = sd.sample(denoiser, solver, x=x)
    assert torch.equal(sd.sample(denoiser, solver, x=x, nfe=5), alone)
    assert torch.equal(sd.sample(denoiser, solver, x=x, steps=5), alone)
    for options, message in (
        ({"nfe": 6}, r"one table of 5 network calls on its own times, got nfe=6; leave it out, or fit another"),
        ({"steps": 6}, r"its own 5 steps, got steps=6; leave out"),
        ({"nfe": 5, "grid": sd.karras}, r"own times, got grid=karras\(.*leave it out"),
        ({"grid": sd.uniform, "steps": 5}, "its own times; leave out grid"),
        ({"nfe": 5, "steps": 5}, "sets the number of steps itself"),
    ):
        with pytest.raises(ValueError, match=message):
            sd.sample(denoiser, solver, x=x, **options)


def test_trajectories_of_tables_report_where_steps_end():
    table = sd.Heun().tableau(sd.VPSDE(), sd.uniform(sd.VPSDE(), 4))
    times, states = sd.trajectory(mixture(sd.VPSDE()), table, shape=(2, 3), generator=torch.Generator().manual_seed(0))
    assert times.tolist() == sd.uniform(sd.VPSDE(), 4).tolist()
    assert states.shape == (5, 2, 3)
