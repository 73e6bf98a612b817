"""What holds for every corrector: its law, its processes, its batch, its place after a predictor."""

import math

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.solvers import correctors, metropolis, preconditioned, underdamped

NAMES = {c.__name__: c for c in (metropolis.MetropolisLangevin, preconditioned.PreconditionedLangevin, underdamped.UnderdampedLangevin)}
CORRECTORS = [
    sd.Langevin(0.2, 2),
    sd.Langevin(0.2, 2, "sample"),
    preconditioned.PreconditionedLangevin((1.0, 0.5), 0.2, 2),
    underdamped.UnderdampedLangevin(0.5, 3),
    metropolis.MetropolisLangevin(0.5, 2),
]
SDES = [sd.VPSDE(), sd.SubVPSDE(), sd.VESDE(sigma_max=100.0)]
T = torch.float64


def mixture(sde: sd.AffineSDE) -> sd.GaussianMixtureDenoiser:
    return sd.GaussianMixtureDenoiser([[1.0, 0.0], [-1.0, 0.5]], [0.3, 0.5], [0.4, 0.6], sde)


def time(sde: sd.AffineSDE, rho: float) -> float:
    return sde.t_of_log_snr(torch.tensor(-math.log(rho), dtype=T)).item()


@pytest.mark.parametrize("corrector", CORRECTORS, ids=repr)
@pytest.mark.parametrize("rho", [0.01, 0.3, 20.0])
def test_a_corrector_makes_the_same_moves_under_every_process(corrector, rho):
    # in x/alpha, with the same options: they scale with sigma
    y = rho * torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=T)
    ends = []
    for sde in SDES:
        t = time(sde, rho)
        alpha = sde.alpha(t)
        move = corrector.corrector(mixture(sde), y, torch.tensor([t], dtype=T), sd.PerSample(range(4)))
        ends.append(move(alpha * y, t)[0] / alpha)
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-7, atol=1e-9 * rho)
    torch.testing.assert_close(ends[2], ends[0], rtol=1e-7, atol=1e-9 * rho)
    assert (ends[0] - y).abs().min() > 1e-4 * rho or isinstance(corrector, metropolis.MetropolisLangevin)  # which may reject


SMALL_STEPS = [
    sd.Langevin(0.05, 100),
    sd.Langevin(0.05, 100, "batch"),
    preconditioned.PreconditionedLangevin((1.0, 1.0), 0.05, 100),
    underdamped.UnderdampedLangevin(0.3, 30),
    metropolis.MetropolisLangevin(0.4, 20),
]


@pytest.mark.parametrize("corrector", SMALL_STEPS, ids=repr)
@pytest.mark.parametrize("sde", SDES, ids=type)
def test_a_corrector_keeps_the_law_of_a_mixture(corrector, sde):
    n, t, denoiser = 4000, time(sde, 0.5), mixture(sde)
    generator = torch.Generator().manual_seed(0)
    x = sde.perturb(denoiser.sample_data(n, generator=generator), t, torch.randn(n, 2, generator=generator, dtype=T))
    moved, _ = corrector.corrector(denoiser, x, torch.tensor([t], dtype=T), sd.Stream(generator))(x, t)
    assert (moved - x).square().mean() > 0.1 * x.var()  # it is not the law of those that stay
    fresh = sde.perturb(denoiser.sample_data(100 * n, generator=generator), t, torch.randn(100 * n, 2, generator=generator, dtype=T))
    for f in (lambda v: v, torch.square, lambda v: v.prod(1, keepdim=True), lambda v: v**4):
        error = f(fresh).std(0) / n**0.5
        assert ((f(moved).mean(0) - f(fresh).mean(0)).abs() < 4 * error).all()


@pytest.mark.parametrize("corrector", CORRECTORS, ids=repr)
@pytest.mark.parametrize("sde", [*SDES, sd.DDPMChain(sd.linear_betas(40))], ids=type)
def test_a_sample_depends_on_its_own_seed_and_not_on_its_batch(corrector, sde):
    denoiser, solver = mixture(sde), sd.PredictorCorrector(corrector=corrector)
    whole = sd.sample(denoiser, solver, shape=(5, 2), steps=6, seeds=[3, 1, 4, 1, 5])
    parts = [sd.sample(denoiser, solver, shape=(len(part), 2), steps=6, seeds=part) for part in ([3, 1], [4], [1, 5])]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(whole[1], whole[3], rtol=0, atol=0)
    assert whole.isfinite().all()


@pytest.mark.parametrize("corrector", CORRECTORS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_shape_and_dtype_of_the_state_are_kept(corrector, dtype):
    x = torch.ones(3, 1, 2, 1, dtype=dtype)
    denoiser = sd.GaussianDenoiser(torch.zeros(1, 2, 1), 0.5, sd.SubVPSDE())
    out = sd.sample(denoiser, corrector, x=x, grid=torch.tensor([0.5, 0.4], dtype=T), seeds=range(3))
    assert (out.shape, out.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize("corrector", CORRECTORS, ids=repr)
def test_where_there_is_no_noise_a_corrector_does_nothing(corrector):
    chain = sd.NCSNLadder((0.1, 1.0))
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=T)
    move = corrector.corrector(mixture(chain), x, torch.tensor([0.5, 0.0], dtype=T), sd.PerSample(range(4)))
    same, calls = move(x, 0.0)
    assert calls == 0
    torch.testing.assert_close(same, x, rtol=0, atol=0)
    assert move(x, 0.5)[1] > 0


@pytest.mark.parametrize("first", ["predictor", "corrector"])
@pytest.mark.parametrize("corrector", CORRECTORS, ids=repr)
def test_a_corrector_takes_the_score_where_the_predictor_has_arrived(corrector, first):
    # landscape, row 18: a neighbour takes it at the time the step came from
    times: list[float] = []

    class Noting(sd.GaussianDenoiser):
        def forward(self, x, t, cond=None):
            times.append(round(float(t), 9))
            return super().forward(x, t, cond)

    denoiser, steps = Noting([0.0, 0.0], 0.5, sd.VPSDE()), []
    solver = sd.PredictorCorrector(sd.DDIM(), corrector, first)
    sd.sample(denoiser, solver, shape=(2, 2), grid=(1.0, 0.6, 0.3), seeds=range(2), callback=steps.append)
    each = (len(times) - 2) // 2  # two steps, two corrections
    one, two, three = [1.0], [0.6], [0.3]
    expected = one + each * two + two + each * three if first == "predictor" else each * one + one + each * two + two
    assert times == expected
    assert steps[-1].nfe == len(times)


@pytest.mark.parametrize("corrector", CORRECTORS, ids=repr)
def test_a_corrector_prints_as_the_expression_that_makes_it(corrector):
    names = NAMES | {"Langevin": sd.Langevin, "PredictorCorrector": sd.PredictorCorrector, "DDIM": sd.DDIM}
    for thing in (corrector, sd.PredictorCorrector(sd.DDIM(), corrector)):
        assert sd.build(repr(thing), names) == thing
        assert isinstance(hash(thing), int)


def test_a_corrector_can_be_written_in_a_few_lines():
    class Shrink(correctors.Corrector):
        def moves(self, level, x, noise, cond):
            return x * level.sigma, 0

    sde, x = sd.VESDE(), torch.ones(2, 1, dtype=T)
    end = sd.sample(sd.GaussianDenoiser(0.0, 1.0, sde), Shrink(), x=x, grid=torch.tensor([0.9, 0.5], dtype=T))
    torch.testing.assert_close(end, x * sde.sigma(0.5))


def test_a_solver_that_is_no_corrector_is_refused():
    for predictor, corrector in ((sd.Langevin(), sd.DDIM()), ("DDIM", sd.Langevin()), (sd.DDIM(), sd.AnnealedLangevin())):
        with pytest.raises(ValueError, match=r"takes a solver and a corrector, .* swap them"):
            sd.PredictorCorrector(predictor, corrector)
