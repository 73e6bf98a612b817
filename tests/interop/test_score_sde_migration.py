"""score_sde_pytorch's names over this package: its formulas, its own results (goldens), a script of its users, and where it was wrong."""

import inspect
import math
import pathlib
import runpy

import pytest
import torch
from goldens.make_migration import MEAN, STD, Gaussian, collect, identity
from safetensors.torch import load_file

import sde_diffusion as sd
from sde_diffusion.interop import score_sde
from sde_diffusion.interop.score_sde.sdes import AffineScoreSDE
from sde_diffusion.interop.score_sde.tables import table_of

HERE = pathlib.Path(__file__).parent
GOLDENS = load_file(HERE / "goldens" / "migration.safetensors")
KINDS = ("VPSDE", "subVPSDE", "VESDE")
SHAPE = (3, 1, 2, 2)


def make(kind: str, N: int = 20) -> AffineScoreSDE:
    return getattr(score_sde, kind)(N=N) if kind == "VESDE" else getattr(score_sde, kind)(0.1, 10, N=N)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pc(sde, predictor, corrector=None, *, shape=SHAPE, continuous=True, seed=0, model=None, **options):
    """Samples and calls of a predictor-corrector run on the exact model."""
    model = Gaussian(sde, continuous) if model is None else model
    options = {"eps": 1e-3, "device": "cpu", "generator": generator(seed)} | options
    return score_sde.get_pc_sampler(sde, shape, predictor, corrector, identity, 0.16, continuous=continuous, **options)(model)


@pytest.fixture(scope="module")
def results():
    with torch.random.fork_rng(devices=[]):
        return collect(score_sde)


# --- its own results


def test_goldens_are_of_every_result(results):
    assert set(GOLDENS) == set(results)
    assert len(GOLDENS) > 100


@pytest.mark.parametrize("key", GOLDENS)
def test_results_are_the_references(results, key):
    # 1e-5 of the largest number: the reference subtracts from 1 in float32, and an ODE's error control amplifies rounding
    ours, theirs = results[key], GOLDENS[key]
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


# --- formulas, transcribed from the paper (Song et al. 2021, equations 29 to 33 and appendix C), in float64


def transcribed(kind: str, x: torch.Tensor, t: torch.Tensor) -> dict[str, torch.Tensor]:
    column = (-1,) + (1,) * (x.ndim - 1)
    if kind == "VESDE":
        sigma = 0.01 * 5000**t
        return {"mean": x, "std": sigma, "drift": 0 * x, "diffusion": sigma * math.sqrt(2 * math.log(5000))}
    beta, integral = 0.1 + 9.9 * t, 0.1 * t + 9.9 * t**2 / 2
    growth = -torch.expm1(-2 * integral) if kind == "subVPSDE" else 1
    std = -torch.expm1(-integral)
    return {
        "mean": torch.exp(-integral / 2).reshape(column) * x,
        "std": std if kind == "subVPSDE" else std.sqrt(),
        "drift": -beta.reshape(column) * x / 2,
        "diffusion": torch.sqrt(beta * growth),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("event", [(2,), (3, 4, 4)])
def test_formulas_are_the_papers_for_data_of_any_dimension(kind, event):
    sde, t = make(kind), torch.tensor([1e-5, 1e-3, 0.4, 1.0], dtype=torch.float64)
    x = torch.randn(4, *event, generator=generator(), dtype=torch.float64)
    expected = transcribed(kind, x, t)
    close = {"rtol": 1e-12, "atol": 0}
    torch.testing.assert_close(sde.marginal_prob(x, t), (expected["mean"], expected["std"]), **close)
    torch.testing.assert_close(sde.sde(x, t), (expected["drift"], expected["diffusion"]), **close)
    scale = 50 if kind == "VESDE" else 1
    prior = torch.distributions.Normal(torch.zeros(()).double(), scale).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(sde.prior_logp(x), prior, rtol=1e-10, atol=0)
    for flow, half in ((False, 1), (True, 0.5)):
        drift, diffusion = sde.reverse(lambda x, t: -x, probability_flow=flow).sde(x, t)
        square = expected["diffusion"].reshape(-1, *[1] * len(event)) ** 2
        torch.testing.assert_close(drift, expected["drift"] + half * square * x, **close)
        torch.testing.assert_close(diffusion, expected["diffusion"] * (not flow), **close)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_the_chain_are_the_papers(kind):
    # Song et al. 2021, appendix E: sqrt(1 - beta_i) x - x and sqrt(beta_i); 0 and sqrt(sigma_i^2 - sigma_{i-1}^2); Euler-Maruyama
    sde, i = make(kind), torch.tensor([0, 1, 7, 19])
    x, t = torch.randn(4, 2, generator=generator(), dtype=torch.float64), i.double() / 19
    f, G = sde.discretize(x, t)
    if kind == "VPSDE":
        beta = 0.1 / 20 + i.double() / 19 * 9.9 / 20
        expected = (torch.sqrt(1 - beta) - 1)[:, None] * x, beta.sqrt()
        torch.testing.assert_close(sde.discrete_betas[i].double(), beta, rtol=1e-6, atol=0)
    elif kind == "VESDE":
        sigma = torch.cat([torch.zeros(1, dtype=torch.float64), 0.01 * 5000 ** (torch.arange(20).double() / 19)])
        expected = 0 * x, torch.sqrt(sigma[i + 1] ** 2 - sigma[i] ** 2)
        torch.testing.assert_close(sde.discrete_sigmas[i].double(), sigma[i + 1], rtol=1e-6, atol=0)
    else:
        paper = transcribed(kind, x, t)
        expected = paper["drift"] / 20, paper["diffusion"] / math.sqrt(20)
    torch.testing.assert_close((f, G), expected, rtol=1e-9, atol=1e-12)


def test_step_numbers_survive_the_rounding_of_float32():
    # i/99 in float32, times 99, is less than i for 8 of the 100 i; truncated it is the step before
    sde, i = make("VPSDE", N=100), torch.arange(100)
    t = i / 99
    assert ((t * 99).long() != i).sum() == 8
    assert (sde.step(t) == i).all()


# --- a user's script


@pytest.fixture
def script(monkeypatch):
    """The script's names, with what it registers forgotten afterwards."""
    for known in ("_PREDICTORS", "_CORRECTORS"):
        monkeypatch.setattr(score_sde.updates, known, dict(getattr(score_sde.updates, known)))
    return runpy.run_path(str(HERE / "migrated_script.py"))


@pytest.mark.parametrize("kind", ["vpsde", "subvpsde", "vesde"])
def test_a_script_runs_by_changing_its_imports(script, kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        samples, (data, bpd, z), score = script["main"](kind)
    assert len(samples) == (6 if kind == "subvpsde" else 7)
    for name, x in samples.items():
        # 4096 numbers: 4 standard errors are 0.031 of the mean, 0.022 of the std; 0.02 for the bias of 100 steps
        assert abs(2 * x.mean() - 1 - MEAN) < 0.05, name
        assert abs(2 * x.std() - STD) < 0.042, name
    sde = {"vpsde": sd.VPSDE(), "subvpsde": sd.SubVPSDE(), "vesde": sd.VESDE()}[kind]
    x = data.double()
    scales = [torch.sqrt((sde.alpha(t) * STD) ** 2 + sde.sigma(t) ** 2) for t in (1e-5, 1.0)]
    # on Gaussian data the flow keeps (x - mean_t)/std_t
    exact_z = sde.alpha(1.0) * MEAN + scales[1] / scales[0] * (x - sde.alpha(1e-5) * MEAN)
    torch.testing.assert_close(z.double(), exact_z, rtol=1e-3, atol=1e-3)
    nats = sde.prior_log_prob(exact_z) + x[0].numel() * torch.log(scales[1] / scales[0])
    torch.testing.assert_close(bpd.double(), 7 - nats / (math.log(2) * x[0].numel()), rtol=0, atol=1e-3)
    law = torch.distributions.Normal(MEAN, STD).log_prob(x).flatten(1).mean(1) / math.log(2)
    # the prior is not quite p_1: for VE their log-densities differ by z mean/sigma_max^2, 0.017 bits at z = 2 sigma_max
    torch.testing.assert_close(bpd.double(), 7 - law, rtol=0, atol=0.017)
    assert score.shape == data.shape


# --- the tables of this package


@pytest.mark.parametrize("kind", ["VPSDE", "VESDE"])
@pytest.mark.parametrize("flow", [False, True])
def test_reverse_diffusion_is_ours_on_the_chain(kind, flow):
    sde = make(kind)
    x, calls = pc(sde, score_sde.ReverseDiffusionPredictor, continuous=False, denoise=False, probability_flow=flow)
    stream, denoiser = sd.Stream(generator()), score_sde.denoiser(sde, Gaussian(sde, False), continuous=False)
    ours = sd.sample(
        denoiser, sd.ReverseDiffusion(eta=0.0 if flow else 1.0), x=sde.prior_sampling(SHAPE, generator=stream.generator), noise=stream
    )
    torch.testing.assert_close(x, ours, rtol=1e-4, atol=1e-5)
    assert calls == sde.N


@pytest.mark.parametrize(("kind", "variance"), [("VPSDE", "forward"), ("VESDE", "posterior")])
def test_ancestral_sampling_is_ours_on_the_chain(kind, variance):
    sde = make(kind)
    x, _ = pc(sde, score_sde.AncestralSamplingPredictor, continuous=False)
    stream, denoiser = sd.Stream(generator()), score_sde.denoiser(sde, Gaussian(sde, False), continuous=False)
    ours = sd.sample(denoiser, sd.Ancestral(variance), x=sde.prior_sampling(SHAPE, generator=stream.generator), noise=stream)
    torch.testing.assert_close(x, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_euler_maruyama_is_ours_and_ends_at_zero(kind):
    sde = make(kind)
    x, _ = pc(sde, score_sde.EulerMaruyamaPredictor, probability_flow=True)
    start = sde.prior_sampling(SHAPE, generator=generator())
    grid = [*torch.linspace(1, 1e-3, sde.N, dtype=torch.float64).tolist(), 0.0]
    ours = sd.sample(score_sde.denoiser(sde, Gaussian(sde, True)), sd.EulerMaruyama(eta=0), x=start, grid=grid)
    torch.testing.assert_close(x, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["VPSDE", "VESDE"])
@pytest.mark.parametrize("name", ["reverse_diffusion", "ancestral_sampling"])
@pytest.mark.parametrize("corrector", ["langevin", "ald", "none"])
@pytest.mark.parametrize("denoise", [False, True])
def test_the_table_and_the_loop_over_update_fn_agree(kind, name, corrector, denoise):
    builtin, sde = score_sde.get_predictor(name), make(kind)
    own = type("Own", (builtin,), {})
    assert table_of(sde, builtin, False, 1e-3, True) is not None
    assert table_of(sde, own, False, 1e-3, True) is None
    runs = [pc(sde, predictor, score_sde.get_corrector(corrector), denoise=denoise) for predictor in (builtin, own)]
    torch.testing.assert_close(*[x for x, _ in runs], rtol=1e-4, atol=1e-5)
    assert runs[0][1] == runs[1][1] == sde.N * (1 if corrector == "none" else 2)


def test_a_grid_that_ends_before_the_chain_does_is_stepped_through_as_the_reference_does():
    sde = make("VPSDE")
    assert table_of(sde, score_sde.ReverseDiffusionPredictor, False, 0.3, True) is None
    assert pc(sde, score_sde.ReverseDiffusionPredictor, eps=0.3)[0].isfinite().all()


def test_a_process_of_the_users_own_is_used_as_it_is():
    class Slower(score_sde.VPSDE):
        def discretize(self, x, t):
            f, G = super().discretize(x, t)
            return 0 * f, 0 * G

    sde, start = Slower(0.1, 10, N=20), make("VPSDE").prior_sampling(SHAPE, generator=generator())
    assert torch.equal(pc(sde, score_sde.ReverseDiffusionPredictor, model=Gaussian(make("VPSDE"), True))[0], start)


def test_a_schedule_put_in_place_is_the_chains():
    sde = make("VPSDE")
    sde.discrete_betas = torch.linspace(0.01, 0.2, 20)
    assert sde.chain == sd.DDPMChain(tuple(sde.discrete_betas.tolist()))
    torch.testing.assert_close(sde.discretize(torch.ones(1, 2), torch.ones(1))[1], torch.tensor([0.2]).sqrt())
    ladder = make("VESDE")
    ladder.discrete_sigmas = torch.linspace(1.0, 2.0, 20)
    torch.testing.assert_close(ladder.discretize(torch.ones(1, 2), torch.zeros(1))[1], torch.ones(1))


class Brownian(score_sde.SDE):
    """dx = dw: variance t is added to the data."""

    @property
    def T(self):  # noqa: N802
        return 1

    def sde(self, x, t):
        return torch.zeros_like(x), torch.ones_like(t)

    def marginal_prob(self, x, t):
        return x, t.sqrt()

    def prior_sampling(self, shape):
        return math.sqrt(1 + STD**2) * torch.randn(shape, generator=generator(1)) + MEAN

    def prior_logp(self, z):
        return torch.distributions.Normal(MEAN, math.sqrt(1 + STD**2)).log_prob(z).flatten(1).sum(1)

    def label_and_weight(self, x, t, continuous):
        return t, torch.ones_like(t)


def brownian_score(x, t):
    return -(x - MEAN) / (STD**2 + t[:, None])


@pytest.mark.parametrize("corrector", [None, "langevin", "ald"])
def test_an_sde_from_the_base_class_works_with_everything(corrector):
    sde = Brownian(N=100)
    shape = (4000, 1)
    corrector = corrector and score_sde.get_corrector(corrector)
    for predictor in (score_sde.EulerMaruyamaPredictor, score_sde.ReverseDiffusionPredictor):
        x, _ = pc(sde, predictor, corrector, shape=shape, model=brownian_score)
        assert abs(x.mean() - MEAN) < 0.04  # 4 standard errors: 0.032, 0.022
        assert abs(x.std() - STD) < 0.03
    x, _ = score_sde.get_ode_sampler(sde, shape, identity, device="cpu")(brownian_score)
    assert abs(x.std() - STD) < 0.03
    bpd, _, _ = score_sde.get_likelihood_fn(sde, identity, eps=1e-3, generator=generator())(brownian_score, x[:5])
    nats = torch.distributions.Normal(MEAN, math.sqrt(STD**2 + 1e-3)).log_prob(x[:5, 0])
    torch.testing.assert_close(bpd, 8 - nats / math.log(2), rtol=0, atol=1e-3)


# --- models


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("continuous", [False, True])
def test_our_denoiser_has_the_score_of_the_model(kind, continuous):
    sde = make(kind)
    continuous = continuous or kind == "subVPSDE"
    model = Gaussian(sde, continuous)
    denoiser = score_sde.denoiser(sde, model, continuous)
    step = torch.tensor([0.0, 5.0, 19.0], dtype=torch.float64)  # on sub-VP sigma is 1e-4 at t = 1e-3: the score by x0_hat loses 8 digits
    t = step / 19
    t = t.clamp(min=1e-3) if continuous else t
    own = t if continuous else (step + 1) / 20
    x = torch.randn(SHAPE, generator=generator(), dtype=torch.float64)
    score = score_sde.get_score_fn(sde, model, continuous=continuous)(x, t)
    torch.testing.assert_close(denoiser.score(x, own), score, rtol=1e-4, atol=1e-4)
    assert isinstance(denoiser, sd.NetworkDenoiser)
    assert denoiser.sde == (sde.ours if continuous else sde.chain)


def test_models_of_a_ladder_get_whole_numbers():
    sde, seen = make("VESDE"), []

    class Model(torch.nn.Module):
        def forward(self, x, labels):
            seen.append(labels)
            return -x

    score_sde.get_score_fn(sde, Model())(torch.zeros(2, 1), torch.tensor([0.0, 1.0]))
    score_sde.denoiser(sde, Model(), continuous=False)(torch.zeros(2, 1), torch.tensor([0.05, 1.0]))
    assert [labels.tolist() for labels in seen] == [[19, 0], [19, 0]]
    assert all(labels.dtype == torch.int64 for labels in seen)


def test_a_model_is_put_into_the_mode_that_is_asked_for():
    model = torch.nn.Module()
    model.forward = lambda x, labels: x
    for train in (True, False):
        score_sde.get_model_fn(model, train)(torch.zeros(1, 1), torch.zeros(1))
        assert model.training is train
    assert not score_sde.denoiser(make("VPSDE"), model.train()).training


def test_the_score_function_is_differentiable():
    sde, x = make("VPSDE"), torch.randn(SHAPE, generator=generator(), requires_grad=True)
    (gradient,) = torch.autograd.grad(score_sde.get_score_fn(sde, Gaussian(sde, True), continuous=True)(x, torch.full((3,), 0.5)).sum(), x)
    alpha, variance = sd.VPSDE(0.1, 10).alpha(0.5), sd.VPSDE(0.1, 10).sigma(0.5) ** 2
    torch.testing.assert_close(gradient, torch.full(SHAPE, -1 / ((alpha * STD) ** 2 + variance).item()))


# --- training


class Bent(torch.nn.Module):
    """A model that is wrong, with a parameter."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.7))

    def forward(self, x, labels):
        return self.scale * torch.sin(x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("weighting", "ours"), [(False, sd.SimpleWeighting()), (True, sd.LikelihoodWeighting())])
def test_losses_are_ours(kind, weighting, ours):
    sde, model = make(kind), Bent()
    x = torch.randn(64, 1, 2, 2, generator=generator(1), dtype=torch.float64)
    loss = score_sde.get_sde_loss_fn(sde, True, likelihood_weighting=weighting, eps=0.1, generator=generator())(model, x)
    again = generator()
    t = torch.rand(64, generator=again).double() * 0.9 + 0.1
    z = torch.randn(x.shape, generator=again, dtype=x.dtype)
    expected = sd.DenoisingScoreMatching(ours)(score_sde.denoiser(sde, model), x, t=t, eps=z).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)  # the network's parameter is float32 in one of them


@pytest.mark.parametrize(("kind", "loss"), [("VPSDE", score_sde.get_ddpm_loss_fn), ("VESDE", score_sde.get_smld_loss_fn)])
def test_losses_of_chains_are_ours(kind, loss):
    sde, model = make(kind), Bent()
    x = torch.randn(64, 1, 2, 2, generator=generator(1))
    value = loss(sde, True, reduce_mean=True, generator=generator())(model, x)
    again = generator()
    labels = torch.randint(0, 20, (64,), generator=again)
    t = (labels + 1 if kind == "VPSDE" else 20 - labels).double() / 20
    z = torch.randn(x.shape, generator=again)
    expected = sd.DenoisingScoreMatching()(score_sde.denoiser(sde, model, continuous=False), x, t=t, eps=z).mean()
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=0)


class Averages:
    """Averages that follow at once, as models/ema.py names their methods."""

    def update(self, parameters):
        self.kept = [p.detach().clone() for p in parameters]

    def store(self, parameters):
        self.own = [p.detach().clone() for p in parameters]

    def copy_to(self, parameters):
        self._set(parameters, self.kept)

    def restore(self, parameters):
        self._set(parameters, self.own)

    def _set(self, parameters, values):
        for p, value in zip(parameters, values, strict=True):
            p.data.copy_(value)


@pytest.mark.parametrize(("kind", "continuous"), [("VPSDE", True), ("subVPSDE", True), ("VESDE", True), ("VPSDE", False), ("VESDE", False)])
def test_steps_train(kind, continuous):
    model = Bent()
    state = {"model": model, "optimizer": torch.optim.Adam(model.parameters(), lr=0.01), "step": 0, "ema": Averages()}
    options = {"reduce_mean": True, "continuous": continuous}
    x = 0.5 * torch.randn(64, 1, 2, 2, generator=generator(1))

    def evaluate():
        return score_sde.get_step_fn(make(kind), False, generator=generator(2), **options)(state, x)

    state["ema"].update(model.parameters())
    before = evaluate()
    step = score_sde.get_step_fn(make(kind), True, lambda optimizer, parameters, step: optimizer.step(), generator=generator(), **options)
    for _ in range(5):
        step(state, x)
    assert state["step"] == 5
    assert evaluate() < before
    assert not evaluate().requires_grad


def test_training_refuses_what_does_not_go_together():
    with pytest.raises(ValueError, match=r"training needs optimize_fn"):
        score_sde.get_step_fn(make("VPSDE"), True)
    with pytest.raises(ValueError, match=r"is for continuous training"):
        score_sde.get_step_fn(make("VPSDE"), False, continuous=False, likelihood_weighting=True)
    with pytest.raises(ValueError, match=r"DDPM is trained on VPSDE, got subVPSDE"):
        score_sde.get_step_fn(make("subVPSDE"), False, continuous=False)
    with pytest.raises(ValueError, match=r"NCSN is trained on VESDE, got VPSDE"):
        score_sde.get_smld_loss_fn(make("VPSDE"), False)


# --- where the reference fails or is wrong


def test_euler_maruyama_follows_the_flow():
    # the reference: TypeError, 'float' object is not subscriptable
    sde = make("VPSDE")
    score_fn = score_sde.get_score_fn(sde, Gaussian(sde, True), continuous=True)
    predictor = score_sde.EulerMaruyamaPredictor(sde, score_fn, probability_flow=True)
    predictor.generator = generator()
    x, mean = predictor.update_fn(torch.ones(SHAPE), torch.full((3,), 0.5))
    assert torch.equal(x, mean)


@pytest.mark.parametrize("name", ["langevin", "ald"])
def test_correctors_keep_the_law_on_sub_vp(name):
    # the reference: AttributeError, 'subVPSDE' object has no attribute 'alphas'
    sde = make("subVPSDE", N=1000)
    t, x = torch.full((4000,), 0.3), torch.randn(4000, 1, 1, 1, generator=generator())
    alpha, sigma = sde.marginal_prob(torch.ones(1, 1), t[:1])
    std = torch.sqrt((alpha * STD) ** 2 + sigma**2).item()
    score_fn = score_sde.get_score_fn(sde, Gaussian(sde, True), continuous=True)
    corrector = score_sde.get_corrector(name)(sde, score_fn, 0.1, 20)
    corrector.generator = generator(1)
    x, _ = corrector.update_fn(alpha.item() * MEAN + std * x, t)
    assert abs(x.mean() - alpha.item() * MEAN) < 4 * std / math.sqrt(4000)
    assert abs(x.std() / std - 1) < 4 / math.sqrt(8000) + 0.01  # e/4 for a step of e = 2 snr^2: the bias of a finite one


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("corrector", [None, "langevin"])
def test_calls_are_counted(kind, corrector):
    # the reference reports N (n_steps + 1), without a corrector too
    sde = make(kind)
    _, calls = pc(sde, score_sde.ReverseDiffusionPredictor, corrector and score_sde.get_corrector(corrector), n_steps=3)
    assert calls == sde.N * (4 if corrector else 1)


@pytest.mark.parametrize("kind", ["VPSDE", "subVPSDE"])
def test_few_steps_of_euler_maruyama_do_not_pass_zero(kind):
    # the reference's last step is 1/N long from t = eps: with N = 20, 50 times too long
    x, _ = pc(make(kind), score_sde.EulerMaruyamaPredictor, shape=(2000, 1, 1, 1))
    assert abs(x.mean() - MEAN) < 0.1
    assert abs(x.std() - STD) < 0.1


def test_the_references_last_step_of_euler_maruyama_diverges_on_narrow_data():
    # data of std 0.01, where it multiplies the deviation by 1 - g^2/(N var) = -26; 5.99 was measured, and 0.12 with ours
    sde = make("VPSDE")
    model = Gaussian(sde, True, std=0.01)
    as_there = type("AsThere", (score_sde.EulerMaruyamaPredictor,), {})  # a class of the user's own: update_fn, whose steps are 1/N long
    predictors = score_sde.EulerMaruyamaPredictor, as_there
    ours, theirs = (pc(sde, predictor, shape=(2000, 1, 1, 1), model=model)[0].std() for predictor in predictors)
    assert ours < 0.2
    assert theirs > 3


def test_bits_are_right_for_every_affine_scaler():
    # data in [0, 255]: the same bits as the same data in [-1, 1]
    sde = score_sde.VESDE(0.01, 50)
    wide = score_sde.VESDE(0.01 * 127.5, 50 * 127.5)
    x = torch.tensor([[-0.5], [0.3]])
    bits = [
        score_sde.get_likelihood_fn(process, scaler, generator=generator())(
            lambda x, s, k=k: -x / ((k * STD) ** 2 + s[:, None] ** 2), k * x
        )[0]
        for process, scaler, k in ((sde, lambda x: (x + 1) / 2, 1.0), (wide, lambda x: (x + 127.5) / 255, 127.5))
    ]
    torch.testing.assert_close(*bits, rtol=0, atol=1e-3)


# --- randomness


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_leaves_the_global_one_alone(kind):
    sde = make(kind)
    before = torch.random.get_rng_state()
    model = Gaussian(sde, True)
    runs = [pc(sde, score_sde.ReverseDiffusionPredictor, score_sde.LangevinCorrector)[0] for _ in range(2)]
    assert torch.equal(*runs)
    for law in ("Rademacher", "Gaussian"):
        score_sde.get_likelihood_fn(sde, identity, law, eps=1e-2, generator=generator())(model, runs[0])
    score_sde.get_ode_sampler(sde, SHAPE, identity, rtol=1e-2, atol=1e-2, device="cpu", generator=generator())(model)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_latent_codes_can_be_given():
    sde = make("VPSDE")
    z = torch.randn(5, 1, 2, 2, generator=generator())
    x, calls = score_sde.get_ode_sampler(sde, SHAPE, identity, device="cpu")(Gaussian(sde, True), z=z)
    assert x.shape == z.shape
    assert 20 < calls < 200


# --- errors


def test_unknown_names_are_named():
    with pytest.raises(ValueError, match=r"no predictor 'euler'; known are euler_maruyama, reverse_diffusion"):
        score_sde.get_predictor("euler")
    with pytest.raises(ValueError, match=r"no corrector 'pc'; known are langevin, ald, none"):
        score_sde.get_corrector("pc")
    with pytest.raises(ValueError, match=r"'langevin' is registered already"):
        score_sde.register_corrector(score_sde.LangevinCorrector, name="langevin")


def test_configurations_that_name_something_unknown_say_so(script):
    config, sde = script["config"], make("VPSDE")
    config["sampling"]["method"] = "euler"
    with pytest.raises(ValueError, match=r"must be 'pc' or 'ode', got 'euler'"):
        score_sde.get_sampling_fn(config, sde, SHAPE, identity, 1e-3)
    config["sampling"]["method"] = "ODE"
    assert score_sde.get_sampling_fn(config, sde, SHAPE, identity, 1e-3, generator=generator())(Gaussian(sde, True))[0].shape == SHAPE


@pytest.mark.parametrize(
    ("output", "message"),
    [(lambda x: x[:, :, :1], r"returned shape \(3, 1, 1, 2\) for states of shape \(3, 1, 2, 2\)"), (lambda x: (x,), r"returned a tuple")],
)
def test_outputs_of_another_shape_are_refused(output, message):
    with pytest.raises(ValueError, match=message):
        pc(make("VPSDE"), score_sde.ReverseDiffusionPredictor, model=lambda x, labels: output(x))


def test_ancestral_sampling_says_what_it_cannot_do():
    with pytest.raises(ValueError, match=r"cannot follow the flow"):
        pc(make("VPSDE"), score_sde.AncestralSamplingPredictor, probability_flow=True)
    with pytest.raises(NotImplementedError, match=r"is for VPSDE and VESDE, got subVPSDE"):
        pc(make("subVPSDE"), score_sde.AncestralSamplingPredictor)


def test_bad_arguments_are_refused():
    sde = make("VPSDE")
    with pytest.raises(ValueError, match=r"eps must lie between 0 and T=1, got 0"):
        pc(sde, None, eps=0)
    with pytest.raises(NotImplementedError, match=r"got 'Uniform'"):
        score_sde.get_likelihood_fn(sde, identity, "Uniform")
    with pytest.raises(ValueError, match=r"inverse_scaler must increase"):
        score_sde.get_likelihood_fn(sde, lambda x: 1.0)
    with pytest.raises(ValueError, match=r"method must be"):
        score_sde.get_ode_sampler(sde, SHAPE, identity, method="euler", device="cpu", generator=generator())(Gaussian(sde, True))
    with pytest.raises(ValueError, match=r"n_steps must be a whole number"):
        score_sde.LangevinCorrector(sde, None, 0.16, 0)
    with pytest.raises(ValueError, match=r"beta_min must lie in"):
        score_sde.VPSDE(beta_min=20, beta_max=0.1)
    with pytest.raises(ValueError, match=r"steps give beta_n"):
        _ = score_sde.VPSDE(N=10).chain
    with pytest.raises(NotImplementedError, match=r"define label_and_weight"):
        score_sde.SDE.label_and_weight(Brownian(10), torch.zeros(1, 1), torch.zeros(1), True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_references_default_device_is_refused_without_a_gpu():
    with pytest.raises(ValueError, match=r"no 'cuda' here, the reference's default; pass device='cpu'"):
        pc(make("VPSDE"), None, device="cuda")


def test_signatures_are_the_references():
    names = {
        "get_pc_sampler": "sde shape predictor corrector inverse_scaler snr n_steps probability_flow continuous denoise eps device",
        "get_ode_sampler": "sde shape inverse_scaler denoise rtol atol method eps device",
        "get_likelihood_fn": "sde inverse_scaler hutchinson_type rtol atol method eps",
        "get_sampling_fn": "config sde shape inverse_scaler eps",
        "get_score_fn": "sde model train continuous",
    }
    for name, parameters in names.items():
        own = [p.name for p in inspect.signature(getattr(score_sde, name)).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert own == parameters.split()
