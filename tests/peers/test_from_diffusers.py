"""diffusers' own models as denoisers: the same predictions and the same samples as through diffusers. All weights are random."""

import json
import shutil
import types

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.denoisers.clipping import Clipped, DynamicThreshold
from sde_diffusion.denoisers.guidance import ClassifierFreeGuidance

diffusers = pytest.importorskip("diffusers")
from sde_diffusion.interop.diffusers import TableauScheduler, from_diffusers, read_schedule  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

N = 20  # steps of the chains
BETAS = {"beta_start": 0.005, "beta_end": 0.4}  # down to an alpha of 0.07 in N steps
BLOCKS = {
    "block_out_channels": (16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "sample_size": 8,
}


def made(kind, seed=0, **config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(diffusers, kind)(**config).eval().requires_grad_(False)


def unet(channels=3, **config):
    return made("UNet2DModel", **{**BLOCKS, "in_channels": channels, "out_channels": channels, **config})


def pipeline(model, scheduler, **parts):
    """What from_diffusers needs of one, where diffusers' own class asks for more than the network."""
    return types.SimpleNamespace(unet=model, scheduler=scheduler, **parts)


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def config(scheduler):
    return {**scheduler.config, "_class_name": type(scheduler).__name__}


@pytest.fixture
def x():
    return normal(2, 3, 8, 8)


def labels(n):
    """The nodes and diffusers' timesteps of a chain."""
    return [((k + 1) / n, k) for k in range(n)]


# One prediction.


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_the_prediction_is_the_schedulers_at_every_label(prediction, x, tmp_path):
    model = unet()
    scheduler = diffusers.DDPMScheduler(N, **BETAS, prediction_type=prediction, clip_sample=False)
    diffusers.DDPMPipeline(model, scheduler).save_pretrained(tmp_path)
    denoiser = from_diffusers(tmp_path)
    for t, k in labels(N):
        output = model(x, k).sample
        theirs = scheduler.step(output, k, x, generator=torch.Generator().manual_seed(0)).pred_original_sample
        torch.testing.assert_close(denoiser(x, t), theirs, rtol=1e-4, atol=1e-4)
        if prediction == "epsilon":
            torch.testing.assert_close(denoiser.eps(x, t), output, rtol=1e-4, atol=2e-4)


def test_labels_of_a_thousand_steps_are_whole_numbers(x):
    seen = []
    model = unet(num_class_embeds=4)
    hook = model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["timestep"]), with_kwargs=True)
    denoiser = from_diffusers(pipeline(model, diffusers.DDIMScheduler()))
    sd.sample(denoiser, sd.DDIM(), x=x[:1, :, :2, :2], grid=sd.chain_grid(spacing="trailing"), steps=100, cond=torch.tensor([0]))
    hook.remove()
    assert torch.cat(seen).tolist() == list(range(999, -1, -10))


SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("n", [N, 1000])
def test_every_schedule_of_betas_is_the_chain_of_the_same_products(schedule, n):
    scheduler = diffusers.DDPMScheduler(n, 0.00085, 0.012, schedule)
    chain = read_schedule(config(scheduler)).sde
    t = torch.arange(1, n + 1, dtype=torch.float64) / n
    torch.testing.assert_close(chain.alpha(t).float(), scheduler.alphas_cumprod.sqrt(), rtol=1e-4, atol=1e-6)
    given = diffusers.DDPMScheduler(trained_betas=scheduler.betas.tolist())
    torch.testing.assert_close(read_schedule(config(given)).sde.alpha(t), chain.alpha(t), rtol=1e-4, atol=1e-6)


def test_zero_terminal_snr_is_kept_but_for_a_millionth_of_the_signal(x):
    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False)
    schedule = read_schedule(config(scheduler))
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(schedule.sde.alpha(t).float(), scheduler.alphas_cumprod.sqrt(), rtol=0, atol=3e-6)
    model = unet()
    scheduler.set_timesteps(10)
    theirs = scheduler.step(model(x, 999).sample, 999, x).pred_original_sample
    torch.testing.assert_close(from_diffusers(pipeline(model, scheduler))(x, 1.0), theirs, rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match="leaves no data at t = 1"):
        read_schedule({**config(scheduler), "prediction_type": "epsilon"})


def test_other_samplers_of_a_chain_have_the_same_model():
    first = read_schedule(config(diffusers.DDPMScheduler(clip_sample=False)))
    for name in ("PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "DEISMultistep", "UniPCMultistep", "LMSDiscrete"):
        assert read_schedule(config(getattr(diffusers, f"{name}Scheduler")())) == first
    flow = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    assert read_schedule(config(flow)) == read_schedule(config(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)))


@pytest.mark.parametrize("channels", [3, 6])
def test_our_own_scheduler_has_the_model_of_the_one_that_it_replaced(channels, x):
    theirs = diffusers.DDPMScheduler(N, **BETAS, variance_type="fixed_small" if channels == 3 else "learned_range")
    ours, model = TableauScheduler.like(theirs, sd.DDIM()), unet(out_channels=channels)
    denoisers = [from_diffusers(pipeline(model, scheduler)) for scheduler in (theirs, ours)]
    torch.testing.assert_close(denoisers[0](x, 0.5), denoisers[1](x, 0.5), rtol=0, atol=0)
    assert denoisers[0].inner.parameterization == denoisers[1].inner.parameterization


def test_a_table_of_time_embeddings_is_read_at_whole_labels(x):
    model = unet(time_embedding_type="learned", num_train_timesteps=N)
    denoiser = from_diffusers(pipeline(model, diffusers.DDPMScheduler(N, **BETAS, clip_sample=False)))
    for t, k in labels(N):
        for near in (t, t - 1e-6, t + 1e-6 if k < N - 1 else t):
            torch.testing.assert_close(denoiser.eps(x, near), model(x, torch.tensor(k)).sample, rtol=1e-4, atol=1e-3)


def test_classes_are_the_condition(x):
    model = unet(num_class_embeds=4)
    denoiser = from_diffusers(pipeline(model, diffusers.DDPMScheduler(N, **BETAS, clip_sample=False)))
    classes = torch.tensor([3, 1])
    torch.testing.assert_close(denoiser.eps(x, 0.5, classes), model(x, 9, classes).sample, rtol=1e-4, atol=2e-4)


# Samples.


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("to_one", [True, False])
def test_ddim_is_ours_on_the_same_nodes(prediction, spacing, to_one, x):
    scheduler = diffusers.DDIMScheduler(
        N,
        **BETAS,
        prediction_type=prediction,
        clip_sample=False,
        timestep_spacing=spacing,
        set_alpha_to_one=to_one,
        steps_offset=1 - to_one,
    )
    model = unet()
    scheduler.set_timesteps(10)
    theirs = x
    for k in scheduler.timesteps:
        theirs = scheduler.step(model(theirs, k).sample, k, theirs).prev_sample
    # the last step goes to alpha_bar = 1, the data, or with set_alpha_to_one=False to alpha_bar_1, the first node
    grid = torch.tensor([*(((k + 1) / N) for k in scheduler.timesteps.tolist()), 0.0 if to_one else 1 / N], dtype=torch.float64)
    assert (grid.diff() < 0).all()
    offset = {"steps_offset": 1} if spacing == "leading" and not to_one else {}
    denoiser = from_diffusers(pipeline(model, scheduler))
    torch.testing.assert_close(sd.chain_grid(spacing=spacing, **offset, t_min=grid[-1].item())(denoiser.sde, 10), grid)
    torch.testing.assert_close(sd.sample(denoiser, sd.DDIM(), x=x, grid=grid), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(("variance", "kind"), [("posterior", "fixed_small"), ("forward", "fixed_large")])
def test_ddpm_is_our_ancestral_sampler_on_the_same_noise(clip, variance, kind, x, tmp_path):
    betas = BETAS if clip else {}  # a random network's samples grow by 1/alpha, and their images would be black and white
    pipe = diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler(N, **betas, variance_type=kind, clip_sample=clip, clip_sample_range=0.8))
    pipe.save_pretrained(tmp_path)
    denoiser = from_diffusers(tmp_path)
    assert isinstance(denoiser, Clipped) == clip
    pipe.set_progress_bar_config(disable=True)
    images = pipe(2, torch.Generator().manual_seed(5), num_inference_steps=N, output_type="np").images  # mapped to 0..1 and cut off
    ours = sd.sample(denoiser, sd.Ancestral(variance), steps=N, shape=x.shape, generator=torch.Generator().manual_seed(5))
    assert ((images > 0) & (images < 1)).mean() > 0.3
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1), torch.from_numpy(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("option", ["clip_sample", "thresholding"])
def test_clipped_ddim_is_theirs_with_use_clipped_model_output(option, x):
    off = {"clip_sample": False, "thresholding": False, option: True}
    scheduler = diffusers.DDIMScheduler(
        N, **BETAS, timestep_spacing="trailing", sample_max_value=1.5, dynamic_thresholding_ratio=0.9, **off
    )
    model = unet()
    scheduler.set_timesteps(10)
    theirs = other = x
    for k in scheduler.timesteps:
        theirs = scheduler.step(model(theirs, k).sample, k, theirs, use_clipped_model_output=True).prev_sample
        other = scheduler.step(model(other, k).sample, k, other).prev_sample
    denoiser = from_diffusers(pipeline(model, scheduler))
    assert isinstance(denoiser, Clipped if option == "clip_sample" else DynamicThreshold)
    ours = sd.sample(denoiser, sd.DDIM(), x=x, grid=sd.chain_grid(spacing="trailing"), steps=10)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (ours - other).abs().max() > 1e-3  # their default keeps the eps of before the clipping: another sampler


def test_a_learned_variance_is_theirs(x):
    model = unet(out_channels=6)
    scheduler = diffusers.DDPMScheduler(N, **BETAS, variance_type="learned_range", clip_sample=False)
    denoiser = from_diffusers(pipeline(model, scheduler))
    assert denoiser.parameterization == sd.LearnedVariance(sd.Epsilon())
    noise = [normal(2, 3, 8, 8, seed=i) for i in range(N)]
    theirs, draws = x, iter(noise)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: next(draws))
        for k in scheduler.timesteps:
            theirs = scheduler.step(model(theirs, k).sample, k, theirs).prev_sample
    ours = sd.sample(denoiser, sd.Ancestral("learned"), x=x, steps=N, noise=sd.Replay(noise))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_score_of_an_ncsnpp_is_its_output_at_sigma(x, tmp_path):
    # built like google/ncsnpp-ffhq-256: skip blocks with FIR resampling, Fourier features of log(sigma), output divided by sigma
    model = unet(
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"),
        time_embedding_type="fourier",
        mid_block_scale_factor=2**0.5,
        block_out_channels=(32, 64),  # what their groups of 4 channels, 32 at most, divide
        norm_num_groups=None,
        norm_eps=1e-6,
        attention_head_dim=None,
        freq_shift=0,
    )
    scheduler = diffusers.ScoreSdeVeScheduler(2000, 0.15, 0.01, 348.0)
    diffusers.ScoreSdeVePipeline(model, scheduler).save_pretrained(tmp_path)
    denoiser = from_diffusers(tmp_path)
    sigma = torch.tensor([0.1, 40.0])
    t = denoiser.sde.t_of_log_snr(-sigma.double().log())
    score = model(x, sigma).sample
    torch.testing.assert_close(denoiser.score(x, t), score, rtol=1e-4, atol=1e-4 * score.abs().max().item())


def test_score_sde_is_a_corrector_and_reverse_diffusion_on_the_ladder_of_its_levels(x, tmp_path):
    n, snr = 10, 0.15
    model = unet(time_embedding_type="fourier")
    scheduler = diffusers.ScoreSdeVeScheduler(n, snr, 0.05, 5.0, correct_steps=2)
    diffusers.ScoreSdeVePipeline(model, scheduler).save_pretrained(tmp_path)
    denoiser = from_diffusers(tmp_path)
    assert denoiser.sde == sd.VESDE(0.05, 5.0)
    # They show the network the levels of n times from 1 to 1e-5, and step between those of n times from 1 to 0: a difference of 5e-5, which
    # a random network with their Fourier features of log(sigma) magnifies to a percent. Both are the latter here.
    scheduler.set_timesteps(n)
    scheduler.set_sigmas(n)
    torch.testing.assert_close(scheduler.sigmas.flip(0), scheduler.discrete_sigmas, rtol=5e-5, atol=0)
    sigmas = scheduler.discrete_sigmas.flip(0)
    noise = [normal(2, 3, 8, 8, seed=i) for i in range(3 * n)]
    start, draws = 5 * x, iter(noise)
    theirs = start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.schedulers.scheduling_sde_ve.randn_tensor", lambda *a, **k: next(draws))
        for timestep, sigma in zip(scheduler.timesteps, sigmas, strict=True):
            level = sigma * torch.ones(2)
            torch.testing.assert_close(
                denoiser.score(x, denoiser.sde.t_of_log_snr(-sigma.double().log())), model(x, level).sample, rtol=1e-3, atol=1e-3
            )
            for _ in range(2):
                theirs = scheduler.step_correct(model(theirs, level).sample, theirs).prev_sample
            theirs, mean = scheduler.step_pred(model(theirs, level).sample, timestep, theirs, return_dict=False)
    ladder = denoiser.sde.discretize(n)
    solver = sd.PredictorCorrector(sd.ReverseDiffusion(), sd.Langevin(snr, steps=2, norm="batch"), first="corrector")
    ours = sd.sample(denoiser.under(ladder), solver, x=start, steps=n, noise=sd.Replay(noise))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    # the pipeline returns the state before the last noise
    ours = sd.sample(denoiser.under(ladder), solver, x=start, steps=n, noise=sd.Replay([*noise[:-1], torch.zeros_like(x)]))
    torch.testing.assert_close(ours, mean, rtol=1e-4, atol=1e-4)


# Latents, prompts and flows.


def guided(call, scale):
    """Theirs, by hand: one call on (unwanted, wanted)."""
    without, wanted = call.chunk(2)
    return without + scale * (wanted - without)


def test_a_latent_model_with_guidance_is_the_loop_of_stable_diffusion(tmp_path):
    model = made(
        "UNet2DConditionModel",
        sample_size=8,
        block_out_channels=(16, 16),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=12,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = diffusers.DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    # the folder as such a pipeline saves it; the pipeline itself needs transformers
    model.save_pretrained(tmp_path / "unet")
    scheduler.save_pretrained(tmp_path / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
    }
    index |= {"unet": ["diffusers", "UNet2DConditionModel"], "scheduler": ["diffusers", "DDIMScheduler"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    unwanted, wanted = normal(1, 5, 12, seed=2), normal(2, 5, 12, seed=3)
    x = theirs = normal(2, 4, 8, 8)
    scheduler.set_timesteps(10)
    for k in scheduler.timesteps:
        output = model(torch.cat([theirs] * 2), k, encoder_hidden_states=torch.cat([unwanted.expand(2, 5, 12), wanted])).sample
        theirs = scheduler.step(guided(output, 7.5), k, theirs).prev_sample
    calls = []
    denoiser = from_diffusers(tmp_path)
    denoiser.network.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    grid = sd.chain_grid(spacing="leading", steps_offset=1, t_min=1 / 1000)
    for null, cond in ((unwanted, wanted), ({"encoder_hidden_states": unwanted}, {"encoder_hidden_states": wanted})):
        ours = sd.sample(ClassifierFreeGuidance(denoiser, 7.5, null), sd.DDIM(), x=x, grid=grid, steps=10, cond=cond)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert calls == [4] * 20
    with pytest.raises(ValueError, match=r"needs prompt embeddings, got cond=None; see pipeline.encode_prompt"):
        denoiser(x, 0.5)


def test_dit_with_guidance_and_an_autoencoder_is_its_pipeline(tmp_path):
    model = made(
        "DiTTransformer2DModel",
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        patch_size=2,
        norm_num_groups=2,
    )
    with torch.no_grad():  # its last layers are zeros at first
        for p in model.parameters():
            p.add_(0.1 * normal(*p.shape, seed=4))
    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",), "block_out_channels": (8,)}
    vae = made("AutoencoderKL", **blocks, latent_channels=4, norm_num_groups=4)
    pipe = diffusers.DiTPipeline(model, vae, diffusers.DDIMScheduler(N, **BETAS, clip_sample=False))
    pipe.save_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    images = pipe([3, 7], guidance_scale=4.0, generator=torch.Generator().manual_seed(5), num_inference_steps=10, output_type="np").images
    denoiser = from_diffusers(tmp_path)
    assert denoiser.parameterization == sd.LearnedVariance(sd.Epsilon())
    latents = sd.sample(
        ClassifierFreeGuidance(denoiser, 4.0, null=1000),
        sd.DDIM(),
        x=torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5)),
        grid=sd.chain_grid(spacing="leading"),
        steps=10,
        cond=torch.tensor([3, 7]),
    )
    ours = vae.decode(latents / vae.config.scaling_factor).sample
    assert ((images > 0) & (images < 1)).mean() > 0.3
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1), torch.from_numpy(images), rtol=1e-4, atol=1e-4)


def test_the_conditions_of_sdxl_are_a_dict_in_a_dict():
    model = made(
        "UNet2DConditionModel",
        sample_size=8,
        block_out_channels=(16,),
        norm_num_groups=8,
        cross_attention_dim=12,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 + 6 * 8,
    )
    sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]])
    unwanted, wanted = (
        {"encoder_hidden_states": normal(1, 5, 12, seed=i), "added_cond_kwargs": {"text_embeds": normal(1, 6, seed=i), "time_ids": sizes}}
        for i in (2, 3)
    )
    x = normal(2, 4, 8, 8)

    def theirs(cond):
        added = {key: value.expand(2, -1) for key, value in cond["added_cond_kwargs"].items()}
        return model(x, 499, cond["encoder_hidden_states"].expand(2, -1, -1), added_cond_kwargs=added).sample

    guide = ClassifierFreeGuidance(from_diffusers(pipeline(model, diffusers.EulerDiscreteScheduler())), 5.0, unwanted)
    output = theirs(unwanted) + 5 * (theirs(wanted) - theirs(unwanted))
    torch.testing.assert_close(guide.eps(x, 0.5, wanted), output, rtol=1e-4, atol=1e-4)


def test_a_guided_prediction_is_clipped_after_the_guidance(x):
    model, scheduler = unet(num_class_embeds=4), diffusers.DDPMScheduler(N, **BETAS)
    clipped = from_diffusers(pipeline(model, scheduler))
    ours = Clipped(ClassifierFreeGuidance(clipped.inner, 3.0, null=0), clipped.low, clipped.high)
    output = guided(model(torch.cat([x, x]), 9, torch.tensor([0, 0, 3, 1])).sample, 3.0)
    theirs = scheduler.step(output, 9, x, generator=torch.Generator().manual_seed(0)).pred_original_sample
    assert theirs.abs().max() == 1
    torch.testing.assert_close(ours(x, 0.5, torch.tensor([3, 1])), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_on_a_flow_is_our_ddim_at_its_sigmas(shift):
    model = made(
        "SD3Transformer2DModel",
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=6,
        pos_embed_max_size=8,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    prompt = {"encoder_hidden_states": normal(2, 5, 12, seed=2), "pooled_projections": normal(2, 6, seed=3)}
    unwanted = {key: torch.zeros_like(value[:1]) for key, value in prompt.items()}
    both = {key: torch.cat([torch.zeros_like(value), value]) for key, value in prompt.items()}
    x = theirs = normal(2, 4, 8, 8)
    scheduler.set_timesteps(10)
    for k in scheduler.timesteps:
        output = model(torch.cat([theirs] * 2), timestep=k.expand(4), **both).sample
        theirs = scheduler.step(guided(output, 4.0), k, theirs).prev_sample
    denoiser = from_diffusers(types.SimpleNamespace(transformer=model, scheduler=scheduler))
    assert denoiser.sde == sd.RectifiedFlow()
    velocity = model(x, timestep=torch.full((2,), 400.0), **prompt).sample
    torch.testing.assert_close(denoiser.v(x, 0.4, prompt), velocity, rtol=1e-4, atol=1e-4)
    ours = sd.sample(ClassifierFreeGuidance(denoiser, 4.0, unwanted), sd.DDIM(), x=x, grid=scheduler.sigmas, cond=prompt)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_flow_is_the_inverse_of_the_velocity_for_every_process():
    alpha, sigma, x0, eps = normal(4, 7).double().abs()
    skip, out, into = sd.Flow().x0_weights(alpha, sigma)
    torch.testing.assert_close(skip * (alpha * x0 + sigma * eps) + out * (eps - x0), x0)
    assert into.eq(1).all()


TINY = {
    "PixArtTransformer2DModel": (
        {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8, "num_layers": 1, "sample_size": 8}
        | {"cross_attention_dim": 16, "caption_channels": 12, "use_additional_conditions": False, "norm_num_groups": 1},
        diffusers.DPMSolverMultistepScheduler(),
        {"encoder_hidden_states": normal(2, 5, 12), "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}},
        (4, 8, 8),
        699,
    ),
    "FluxTransformer2DModel": (
        {"in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
        | {"joint_attention_dim": 12, "pooled_projection_dim": 6, "axes_dims_rope": (4, 4, 8)},
        diffusers.FlowMatchEulerDiscreteScheduler(),
        {
            "encoder_hidden_states": normal(2, 5, 12),
            "pooled_projections": normal(2, 6),
            "img_ids": normal(16, 3),
            "txt_ids": torch.zeros(5, 3),
        },
        (16, 4),
        0.7,  # its pipeline passes timestep/1000
    ),
    "WanTransformer3DModel": (
        {"in_channels": 4, "out_channels": 4, "num_layers": 1, "attention_head_dim": 12, "num_attention_heads": 2}
        | {"text_dim": 12, "freq_dim": 16, "ffn_dim": 16},
        diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        {"encoder_hidden_states": normal(2, 5, 12)},
        (4, 1, 8, 8),
        700,
    ),
}


@pytest.mark.parametrize("name", TINY)
def test_every_network_is_told_the_noise_as_its_pipeline_tells_it(name):
    options, scheduler, cond, shape, label = TINY[name]
    model, x = made(name, **options), normal(2, *shape)
    output = model(x, timestep=torch.full((2,), label), return_dict=False, **cond)[0][:, : shape[0]]
    denoiser = from_diffusers(types.SimpleNamespace(transformer=model, scheduler=scheduler))
    ours = denoiser.v(x, 0.7, cond) if isinstance(denoiser.sde, sd.RectifiedFlow) else denoiser.eps(x, 0.7, cond)
    torch.testing.assert_close(ours, output, rtol=1e-4, atol=1e-4)
    assert output.std() > 1e-2


# Folders, devices and errors.


def test_the_oldest_layout_has_everything_in_one_folder(x, tmp_path):
    diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler(N, **BETAS)).save_pretrained(tmp_path / "new")
    (tmp_path / "old").mkdir()
    for file in ("model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"):
        shutil.copy(tmp_path / "new" / file, tmp_path / "old")
    torch.testing.assert_close(from_diffusers(tmp_path / "old")(x, 0.5), from_diffusers(str(tmp_path / "new"))(x, 0.5), rtol=0, atol=0)


def test_half_precision_is_of_the_network_and_not_of_the_state(x):
    denoiser = from_diffusers(pipeline(unet(), diffusers.DDPMScheduler(N, **BETAS)), dtype=torch.bfloat16, device="cpu")
    assert next(denoiser.parameters()).dtype == torch.bfloat16
    assert denoiser(x, 0.5).dtype == torch.float32


def test_pickled_weights_are_refused(tmp_path):
    diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler(N)).save_pretrained(tmp_path, safe_serialization=False)
    assert list((tmp_path / "unet").glob("*.bin"))
    with pytest.raises(OSError, match=r"no weights in safetensors .* pickled weights \(.bin\) are not read, for they can run code"):
        from_diffusers(tmp_path)


@pytest.mark.parametrize("name", ["/no/such/folder", "no_such_folder", "./no/folder"])
def test_a_missing_folder_is_not_looked_for_elsewhere(name):
    with pytest.raises(OSError, match=f"there is no folder {name}; give the folder"):
        from_diffusers(name)


def test_without_a_network_a_name_of_the_hub_says_so(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"no folder no-such-user/no-such-model, .* unset HF_HUB_OFFLINE, or pass a pipeline"):
        from_diffusers("no-such-user/no-such-model")


def test_a_folder_without_a_pipeline_is_refused(tmp_path):
    with pytest.raises(OSError, match=r"holds no pipeline .*write one with pipeline\.save_pretrained"):
        from_diffusers(tmp_path)


def test_what_is_not_understood_is_named_with_what_is():
    with pytest.raises(ValueError, match=r"class 'LCMScheduler' is not among those .* DDPMScheduler, .* ScoreSdeVeScheduler"):
        from_diffusers(pipeline(unet(), diffusers.LCMScheduler()))
    with pytest.raises(ValueError, match=r"a network Linear is not among those .* UNet2DModel, .* SD3Transformer2DModel"):
        from_diffusers(pipeline(torch.nn.Linear(1, 1), diffusers.DDPMScheduler()))
    with pytest.raises(ValueError, match="got Linear; pass a pipeline or its folder"):
        from_diffusers(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="takes 6 channels and returns 3: some of them are an image"):
        from_diffusers(pipeline(unet(6, out_channels=3), diffusers.DDPMScheduler()))
    with pytest.raises(ValueError, match="variance_type='learned'"):
        from_diffusers(pipeline(unet(out_channels=6), diffusers.DDPMScheduler(variance_type="learned")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction_type": "noise"}, "epsilon, sample, v_prediction or flow_prediction, got 'noise'"),
        ({"beta_schedule": "laplace"}, "beta_schedule must be one of linear, .* got 'laplace'"),
        ({"timestep_type": "continuous"}, "timestep_type='continuous'"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True}, "invert_sigmas=True"),
    ],
)
def test_a_configuration_that_is_not_understood_says_what_is(options, message):
    with pytest.raises(ValueError, match=message):
        read_schedule({**config(diffusers.DDPMScheduler()), **options})
    with pytest.raises(ValueError, match="configuration of DDPMScheduler has no 'num_train_timesteps'"):
        read_schedule({"_class_name": "DDPMScheduler"})
