"""Our solvers as schedulers in diffusers' own pipelines: the same samples as our own loop's."""

import importlib
import json
import sys

import pytest
import torch

import sde_diffusion as sd

pytest.importorskip("diffusers")
import diffusers

from sde_diffusion.interop.diffusers import TableauScheduler

CHAIN = sd.DDPMChain(sd.linear_betas(50, 1e-3, 0.05))  # short, so that what untrained networks predict stays of the size of 1
LABELS = sd.TimeLabel(50.0, -1.0)
TOLERANCE = 1e-4  # float32 through ten calls of a network

SOLVERS = [
    sd.DDIM(),
    sd.DDIM(0.5),
    sd.Ancestral(),
    sd.EulerMaruyama(),
    sd.Heun(),
    sd.RK4(),
    sd.Churn(sd.Heun()),
    sd.DPMSolverPP(3),
    sd.DPMSolverPP(stochastic=True),
    sd.DEIS(),
    sd.IPNDM(start="heun"),
    sd.UniPC(),
    sd.SASolver(),
    sd.AdamsBashforth(4, "velocity", corrector=True),
    sd.FinalDenoise(sd.DDIM()),
    sd.Truncate(sd.UniPC(), 0.7),
    sd.AnalyticFirstStep(sd.DPMSolverPP(3)),
]
IN_A_LIBRARY = [sd.DDIM(), sd.Ancestral(), sd.Heun(), sd.DPMSolverPP(), sd.UniPC()]


class Network(torch.nn.Module):
    """A diffusers model as a NetworkDenoiser calls it, guided by a condition (wanted, unwanted, scale)."""

    def __init__(self, model, name=None):
        super().__init__()
        self.model = model
        self.name = name

    def forward(self, x, c_noise, cond=None):
        if cond is None:
            return self.model(x, c_noise).sample
        wanted, unwanted = (self.model(x, timestep=c_noise, **{self.name: c}).sample[:, : x.shape[1]] for c in cond[:2])
        return unwanted + cond[2] * (wanted - unwanted)


def make(model, **config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model(**config).eval()


@pytest.fixture(scope="module")
def unet():
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    size = {"sample_size": 8, "in_channels": 2, "out_channels": 2, "block_out_channels": (8, 16), "layers_per_block": 1}
    return make(diffusers.UNet2DModel, **size, **blocks, norm_num_groups=4, attention_head_dim=4)


@pytest.fixture(scope="module")
def text_unet():
    blocks = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    size = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 1}
    return make(diffusers.UNet2DConditionModel, **size, **blocks, norm_num_groups=4, attention_head_dim=4, cross_attention_dim=6)


@pytest.fixture(scope="module")
def vae():
    return make(diffusers.AutoencoderKL, block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=8)


@pytest.fixture(scope="module")
def dit():
    size = {"sample_size": 8, "in_channels": 4, "patch_size": 4, "num_layers": 1, "out_channels": 8}  # the variance too, like DiT
    model = make(diffusers.DiTTransformer2DModel, **size, num_attention_heads=2, attention_head_dim=4)
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # as initialised it predicts 0
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def fitted():
    vp = sd.VPSDE()
    mixture = sd.GaussianMixtureDenoiser([[1.0, -1.0], [-1.0, 0.5]], 0.3, [0.7, 0.3], vp)
    solver = sd.fit(mixture, 5, shape=(16, 2), generator=torch.Generator().manual_seed(0), iterations=3)
    assert solver.improved
    return solver


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stream(seed=0):
    return sd.Stream(torch.Generator().manual_seed(seed))


def ours(network, solver, shape, sde=CHAIN, kind=None, conditioning=LABELS, noise=None, x=None, cond=None, **plan):
    """Samples of our own loop, from a start and noise drawn as a pipeline draws them."""
    denoiser = sd.NetworkDenoiser(network, sde, kind or sd.Epsilon(), conditioning)
    noise = noise or stream()
    start = noise(torch.empty(shape)) if x is None else x
    return sd.sample(denoiser, solver, x=start, noise=noise, cond=cond, **plan)


def by_hand(model, scheduler, x, generator=None, **options):
    for t in scheduler.timesteps:
        x = scheduler.step(model(scheduler.scale_model_input(x, t), t).sample, t, x, generator=generator, **options).prev_sample
    return x


@pytest.mark.parametrize("solver", IN_A_LIBRARY, ids=str)
def test_the_ddpm_pipeline_makes_the_images_of_our_loop(unet, solver):
    pipeline = quiet(diffusers.DDPMPipeline(unet, TableauScheduler(solver, CHAIN)))
    made = pipeline(2, generator=torch.Generator().manual_seed(0), num_inference_steps=5, output_type="pt").images
    expected = ours(Network(unet), solver, (2, 2, 8, 8), steps=5)
    assert (expected.abs() < 1).float().mean() > 0.2  # images are cut off at 1, where they are all alike
    torch.testing.assert_close(made, (expected / 2 + 0.5).clamp(0, 1), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_pipeline_of_latents_and_text_makes_the_latents_of_our_loop(text_unet, vae, solver):
    wanted, unwanted = torch.randn(2, 2, 3, 6, generator=torch.Generator().manual_seed(5))
    scheduler, generator = TableauScheduler(solver, CHAIN), torch.Generator().manual_seed(0)

    with torch.no_grad():  # the order of calls of StableDiffusionPipeline, which asks for a package of encoders of text
        scheduler.set_timesteps(6, device="cpu")
        x = diffusers.utils.torch_utils.randn_tensor((2, 4, 8, 8), generator=generator) * scheduler.init_noise_sigma
        assert len(scheduler.timesteps) == scheduler.nfe
        for t in scheduler.timesteps:
            both = scheduler.scale_model_input(torch.cat([x, x]), t)
            eps_0, eps = text_unet(both, t, encoder_hidden_states=torch.cat([unwanted, wanted]), return_dict=False)[0].chunk(2)
            x = scheduler.step(eps_0 + 3.0 * (eps - eps_0), t, x, generator=generator, return_dict=False)[0]
        images = vae.decode(x / vae.config.scaling_factor, return_dict=False)[0]

    noise = stream()
    start = CHAIN.prior_sample((2, 4, 8, 8), noise)
    network = Network(text_unet, "encoder_hidden_states")
    expected = ours(network, solver, None, noise=noise, x=start, cond=(wanted, unwanted, 3.0), steps=6)
    assert expected.std() > 0.1
    torch.testing.assert_close(x, expected, rtol=TOLERANCE, atol=TOLERANCE)
    with torch.no_grad():
        torch.testing.assert_close(images, vae.decode(expected / vae.config.scaling_factor).sample, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("solver", IN_A_LIBRARY, ids=str)
def test_the_dit_pipeline_makes_the_images_of_our_loop(dit, vae, solver):
    pipeline = quiet(diffusers.DiTPipeline(dit, vae, TableauScheduler(solver, CHAIN)))
    torch.manual_seed(3)  # the pipeline hands its generator to no step, which draw from torch's own
    generator = torch.Generator().manual_seed(0)
    images = pipeline([1, 7], guidance_scale=2.0, generator=generator, num_inference_steps=5, output_type="np").images

    torch.manual_seed(3)
    x = stream()(torch.empty(2, 4, 8, 8))

    def noise(x):
        return torch.randn(4, *x.shape[1:])[:2]  # the pipeline's batch has every image twice

    cond = (torch.tensor([1, 7]), torch.tensor([1000, 1000]), 2.0)
    expected = ours(Network(dit, "class_labels"), solver, None, noise=noise, x=x, cond=cond, steps=5)
    with torch.no_grad():
        decoded = vae.decode(expected / vae.config.scaling_factor).sample
    assert (decoded.abs() < 1).float().mean() > 0.2
    assert decoded.std() > 0.1
    torch.testing.assert_close(torch.from_numpy(images).movedim(-1, 1), (decoded / 2 + 0.5).clamp(0, 1), rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_edm_with_churn_is_shown_scaled_states_and_makes_the_samples_of_our_loop(unet):
    edm, solver, grid = sd.EDMSDE(), sd.Churn(sd.Heun(), s_churn=5.0), sd.karras(rho=5.0)
    scheduler = TableauScheduler(solver, edm, sd.EDM(0.5), sd.LogNoise(), grid)
    scheduler.set_timesteps(6)
    noise = stream()
    x = edm.prior_sample((2, 2, 8, 8), noise)
    made = by_hand(unet, scheduler, x, noise.generator)
    assert scheduler.init_noise_sigma == edm.prior_std == 80
    noise = stream()
    x = edm.prior_sample((2, 2, 8, 8), noise)
    expected = ours(Network(unet), solver, None, edm, sd.EDM(0.5), sd.LogNoise(), noise, x, steps=6, grid=grid)
    torch.testing.assert_close(made, expected, rtol=TOLERANCE, atol=TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("kind", [sd.X0(), sd.V(), sd.Score(), sd.EDM(0.7)], ids=repr)
def test_every_parameterization_makes_the_samples_of_our_loop(unet, kind):
    scheduler = TableauScheduler(sd.DPMSolverPP(), CHAIN, kind)
    scheduler.set_timesteps(5)
    x = stream()(torch.empty(2, 2, 8, 8))
    torch.testing.assert_close(
        by_hand(unet, scheduler, x), ours(Network(unet), sd.DPMSolverPP(), None, kind=kind, x=x, steps=5), rtol=TOLERANCE, atol=TOLERANCE
    )


@torch.no_grad()
def test_a_fitted_table_runs_in_a_pipeline_and_is_saved_with_its_configuration(unet, fitted, tmp_path):
    vp = fitted.sde
    scheduler = TableauScheduler(fitted, vp, sd.X0())
    quiet(diffusers.DDPMPipeline(unet, scheduler)).save_pretrained(tmp_path)
    pipeline = quiet(diffusers.DDPMPipeline.from_pretrained(tmp_path))
    assert isinstance(pipeline.scheduler, TableauScheduler)
    assert pipeline.scheduler.solver.table == fitted.table
    made = pipeline(2, generator=torch.Generator().manual_seed(0), num_inference_steps=fitted.default_steps, output_type="pt").images
    expected = ours(Network(unet), fitted, (2, 2, 8, 8), vp, sd.X0(), sd.TimeLabel(999.0))
    assert (expected.abs() < 1).float().mean() > 0.5
    torch.testing.assert_close(made, (expected / 2 + 0.5).clamp(0, 1), rtol=0, atol=TOLERANCE)
    with pytest.raises(ValueError, match="its own 5 steps"):
        scheduler.set_timesteps(7)


# What diffusers asks of every scheduler


def run(scheduler, steps=5, dtype=torch.float32, start=0):
    """A run with a made-up model, which shows in the result if a call is told another time."""
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(1)
    x = scheduler.init_noise_sigma * torch.randn(2, 3, 4, 4, generator=generator).to(dtype)
    for t in scheduler.timesteps[start:]:
        out = torch.tanh(scheduler.scale_model_input(x, t)) * (t / 50).to(dtype)
        x = scheduler.step(out, t, x, generator=generator).prev_sample
    return x


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_configuration_that_was_saved_makes_the_same_samples(solver, tmp_path):
    scheduler = TableauScheduler(solver, CHAIN, sd.V(), LABELS, sd.uniform(t_min=0.02), clip=2.0)
    scheduler.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert written["solver"] == repr(solver)
    assert written["sde"] == repr(CHAIN)
    assert written["parameterization"] == "V()"
    for again in (TableauScheduler.from_pretrained(tmp_path), TableauScheduler.from_config(scheduler.config)):
        assert again.config == scheduler.config
        assert torch.equal(run(again), run(scheduler))


def test_a_configuration_takes_another_solver():
    scheduler = TableauScheduler.from_config(TableauScheduler("DDIM()", CHAIN, "V()").config, solver="UniPC(order=2)")
    assert (scheduler.solver, scheduler.sde, scheduler.parameterization) == (sd.UniPC(2), CHAIN, sd.V())


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_nothing_of_a_run_is_left_in_the_next(solver):
    scheduler, fresh = TableauScheduler(solver, CHAIN), run(TableauScheduler(solver, CHAIN))
    scheduler.set_timesteps(9)
    for t in scheduler.timesteps[:4]:
        scheduler.step(torch.ones(1, 3), t, torch.ones(1, 3))
    scheduler.set_timesteps(5)
    assert torch.equal(run(scheduler), fresh)
    assert torch.equal(run(scheduler), fresh)


def test_timesteps_are_the_labels_of_all_network_calls():
    scheduler = TableauScheduler("Heun()", CHAIN, grid="uniform()")
    scheduler.set_timesteps(5)
    assert scheduler.timesteps.tolist() == [49, 39, 39, 29, 29, 19, 19, 9, 9]  # t = 1, 4/5, ... is the node 50 t; the last is Euler's
    assert scheduler.timesteps.dtype == torch.int64
    assert (scheduler.nfe, scheduler.order, scheduler.num_inference_steps, len(scheduler)) == (9, 2, 5, 50)
    scheduler.set_timesteps(4)
    torch.testing.assert_close(scheduler.timesteps, torch.tensor([49, 36.5, 36.5, 24, 24, 11.5, 11.5]))
    orders = {"DDIM()": 1, "UniPC()": 1, "RK4()": 4, "Midpoint()": 2, "DPMSolver(order=3)": 3, "FinalDenoise(DDIM())": 1}
    assert {solver: TableauScheduler(solver, "VPSDE()").order for solver in orders} == orders


def test_timesteps_are_on_the_device_that_was_asked_for():
    scheduler = TableauScheduler("UniPC()", CHAIN)
    scheduler.set_timesteps(4, device="meta")
    assert scheduler.timesteps.device.type == "meta"
    assert scheduler.step(torch.ones(1, 3), 49, torch.ones(1, 3)).prev_sample.device.type == "cpu"


@pytest.mark.parametrize("solver", IN_A_LIBRARY, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_dtype_of_samples_is_kept(solver, dtype):
    made, expected = run(TableauScheduler(solver, CHAIN), dtype=dtype), run(TableauScheduler(solver, CHAIN))
    assert made.dtype == dtype
    if solver != sd.Ancestral():  # whose noise is drawn in another dtype
        torch.testing.assert_close(made.float(), expected, rtol=0.05, atol=20 * torch.finfo(dtype).eps)


def test_step_returns_the_state_and_the_prediction_of_the_data():
    scheduler = TableauScheduler("DDIM()", CHAIN)
    scheduler.set_timesteps(5)
    x, eps = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    output = scheduler.step(eps, scheduler.timesteps[0], x)
    scheduler.set_timesteps(5)
    pair = scheduler.step(eps, scheduler.timesteps[0], x, return_dict=False)
    assert isinstance(pair, tuple)
    assert torch.equal(pair[0], output.prev_sample)
    assert torch.equal(pair[1], output.pred_original_sample)
    x0_hat = (x - CHAIN.sigma(1.0) * eps) / CHAIN.alpha(1.0)
    torch.testing.assert_close(output.pred_original_sample, x0_hat.float())
    torch.testing.assert_close(output.prev_sample, CHAIN.perturb(x0_hat, 0.8, eps).float())  # what DDIM is


def test_each_sample_can_have_a_generator_of_its_own():
    def step(*seeds):
        scheduler = TableauScheduler("Ancestral()", CHAIN)
        scheduler.set_timesteps(5)
        x, generators = torch.ones(len(seeds), 3), [torch.Generator().manual_seed(seed) for seed in seeds]
        return scheduler.step(0 * x, 49, x, generators).prev_sample

    assert torch.equal(step(1, 2)[1:], step(2))


@pytest.mark.parametrize(
    "conditioning",
    [LABELS, sd.TimeLabel(-50.0, 50.0), sd.TimeLabel(50.0, -1.0, whole=True), sd.LogNoise(), sd.SigmaLabel()],
    ids=repr,
)
def test_noise_is_added_as_at_the_times_of_the_labels(conditioning):
    scheduler = TableauScheduler("DDIM()", CHAIN, conditioning=conditioning, grid=sd.uniform())
    scheduler.set_timesteps(25)
    times = torch.arange(25, 0, -1, dtype=torch.float64) / 25
    x0, z = torch.randn(2, 25, 3, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(scheduler.add_noise(x0, z, scheduler.timesteps), CHAIN.perturb(x0, times, z), rtol=0, atol=1e-5)
    assert scheduler.add_noise(x0.half(), z.half(), scheduler.timesteps).dtype == torch.float16


@pytest.mark.parametrize("sde", [CHAIN, sd.EDMSDE()], ids=lambda sde: type(sde).__name__)
def test_velocity_is_what_a_model_of_v_predicts(sde):
    scheduler = TableauScheduler("DDIM()", sde, sd.V())
    t = torch.tensor([0.2, 0.6], dtype=torch.float64)
    labels = scheduler.conditioning.scale * t + scheduler.conditioning.offset
    x0, z = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    c_skip, c_out, _, _ = (c[:, None] for c in sd.V().scalings(sde, t))
    torch.testing.assert_close(c_skip * sde.perturb(x0, t, z) + c_out * scheduler.get_velocity(x0, z, labels), x0)


@torch.no_grad()
@pytest.mark.parametrize("explicit", [True, False], ids=["set_begin_index", "first timestep"])
@pytest.mark.parametrize("solver", [sd.DDIM(), sd.Heun(), sd.RK4(), sd.DPMSolverPP(3), sd.AdamsBashforth(4, corrector=True)], ids=str)
def test_editing_begins_within_the_grid_as_our_loop_does(unet, solver, explicit):
    scheduler = TableauScheduler(solver, CHAIN)
    scheduler.set_timesteps(8)
    skipped = 3  # steps, as image-to-image pipelines skip them
    timesteps = scheduler.timesteps[skipped * scheduler.order :]
    x0, z = torch.randn(2, 2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    x = start = scheduler.add_noise(x0, z, timesteps[:1].expand(2))
    if explicit:
        scheduler.set_begin_index(skipped * scheduler.order)
    for t in timesteps:
        x = scheduler.step(unet(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
    grid = solver.default_grid(CHAIN, 8)[skipped:]
    torch.testing.assert_close(x, ours(Network(unet), solver, None, x=start, grid=grid), rtol=TOLERANCE, atol=TOLERANCE)


def test_like_takes_over_flows_and_learned_variances(tmp_path):
    flow = TableauScheduler.like(diffusers.FlowMatchEulerDiscreteScheduler(), "DDIM()")
    assert (flow.sde, flow.conditioning) == (sd.RectifiedFlow(), sd.TimeLabel(1000.0))
    flow.save_pretrained(tmp_path)
    assert TableauScheduler.from_pretrained(tmp_path).parameterization == flow.parameterization
    learned = TableauScheduler.like(diffusers.DDPMScheduler(variance_type="learned_range"), "DDIM()")
    assert (learned.parameterization, learned.clip) == (sd.LearnedVariance(sd.Epsilon()), 1.0)
    with pytest.raises(ValueError, match="thresholding=True"):
        TableauScheduler.like(diffusers.DDPMScheduler(thresholding=True), "DDIM()")


@torch.no_grad()
@pytest.mark.parametrize("clip", [True, False])
def test_like_takes_over_the_model_of_another_scheduler(unet, clip):
    betas = {"num_train_timesteps": 50, "beta_start": 1e-3, "beta_end": 0.05}
    theirs = diffusers.DDIMScheduler(**betas, clip_sample=clip, prediction_type="v_prediction")
    mine = TableauScheduler.like(theirs, "DDIM()", grid=sd.chain_grid(spacing="leading"))
    x = stream()(torch.empty(2, 2, 8, 8))
    for scheduler in (theirs, mine):
        scheduler.set_timesteps(10)
    assert mine.timesteps.tolist() == theirs.timesteps.tolist()
    expected = by_hand(unet, theirs, x, use_clipped_model_output=True)
    torch.testing.assert_close(by_hand(unet, mine, x), expected, rtol=TOLERANCE, atol=TOLERANCE)


# Errors


def test_a_step_out_of_order_is_refused():
    scheduler = TableauScheduler("DDIM()", CHAIN)
    x = torch.ones(1, 3)
    with pytest.raises(ValueError, match=r"call set_timesteps\(n\) first"):
        scheduler.step(x, 49, x)
    scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match="timestep 48 is none of those of set_timesteps, 49, 39, 29, 19"):
        scheduler.step(x, 48, x)
    scheduler.step(x, 49, x)
    with pytest.raises(ValueError, match="call 1 of the run is the one at timestep 39, got 49"):
        scheduler.step(x, torch.tensor(49), x)
    for t in scheduler.timesteps[1:]:
        scheduler.step(x, t, x)
    with pytest.raises(ValueError, match="all 5 network calls of the run are made"):
        scheduler.step(x, 9, x)


def test_a_run_cannot_begin_where_predictions_are_missing(fitted):
    scheduler = TableauScheduler("Heun()", CHAIN)
    scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match=r"Heun\(\) cannot begin at network call 1 of 9"):
        scheduler.set_begin_index(1)
    with pytest.raises(ValueError, match="one of the 9 network calls, from 0, got 9"):
        scheduler.set_begin_index(9)
    scheduler = TableauScheduler(fitted, fitted.sde)
    scheduler.set_timesteps()
    with pytest.raises(ValueError, match=r"FittedSolver\(5\) cannot begin at network call 2 of 5"):
        scheduler.set_begin_index(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solver": "AdaptiveODE()"}, "and has no table"),
        ({"solver": "PredictorCorrector(DDIM(), Langevin(snr=0.1))"}, "has no table"),
        ({"solver": "DIMM()"}, "did you mean DDIM"),
        ({"solver": "VPSDE()"}, "solver must be a Solver or its expression"),
        ({"sde": sd.DDIM()}, "sde must be a AffineSDE"),
        ({"clip": -1.0}, "clip must be a positive number"),
    ],
)
def test_what_is_no_part_of_a_scheduler_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TableauScheduler(**arguments)


def test_an_output_of_another_shape_is_refused():
    scheduler = TableauScheduler("DDIM()", CHAIN)
    scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match=r"shape \(1, 6\) for a state of shape \(1, 3\)"):
        scheduler.step(torch.ones(1, 6), 49, torch.ones(1, 3))
    scheduler = TableauScheduler("DDIM()", CHAIN, sd.LearnedVariance())
    scheduler.set_timesteps(5)
    assert scheduler.step(torch.ones(1, 6), 49, torch.ones(1, 3)).prev_sample.shape == (1, 3)


def test_what_has_no_expression_is_used_but_not_saved(tmp_path):
    sde = sd.AffineSDE.from_coefficients(lambda t: -0.5 * t, lambda t: torch.sqrt(t))
    scheduler = TableauScheduler("DDIM()", sde)
    assert run(scheduler).isfinite().all()
    with pytest.raises(ValueError, match="the sde cannot be saved"):
        scheduler.save_pretrained(tmp_path)


def test_without_diffusers_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.delitem(sys.modules, "sde_diffusion.interop.diffusers.scheduler")
    with pytest.raises(ImportError, match=r"pip install 'sde_diffusion\[diffusers\]'"):
        importlib.import_module("sde_diffusion.interop.diffusers.scheduler")
