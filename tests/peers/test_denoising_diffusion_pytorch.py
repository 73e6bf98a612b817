"""A model of lucidrains' denoising-diffusion-pytorch in our samplers, as an example: its U-Net, its betas, its samples.

Of its imports, torchvision and accelerate serve its trainer only; empty modules stand for them here where they are not installed.
"""

import importlib.util
import sys
import types

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.interop.functions import from_prediction

N, SHAPE = 20, (2, 1, 8, 8)
OBJECTIVES = {"pred_noise": "eps", "pred_x0": "x0", "pred_v": "v"}


@pytest.fixture(scope="module")
def theirs():
    stubs = {"torchvision": {"transforms": None, "utils": None}, "accelerate": {"Accelerator": None}}
    with pytest.MonkeyPatch.context() as patch:
        for name, contents in stubs.items():
            if importlib.util.find_spec(name) is None:
                stub = types.ModuleType(name)
                stub.__dict__.update(contents)
                patch.setitem(sys.modules, name, stub)
        return pytest.importorskip("denoising_diffusion_pytorch.denoising_diffusion_pytorch", exc_type=ImportError)


@pytest.fixture
def diffusion(theirs):
    def made(objective, **options):
        torch.manual_seed(0)  # conftest.py lends the global generator
        network = theirs.Unet(dim=8, dim_mults=(1, 2), channels=1, attn_heads=1, attn_dim_head=8)
        return theirs.GaussianDiffusion(
            network, image_size=8, timesteps=N, objective=objective, beta_schedule="sigmoid", auto_normalize=False, **options
        ).eval()

    return made


def ours(diffusion):
    """Their model as a denoiser: the whole of what a user writes."""
    chain = sd.DDPMChain(diffusion.betas.tolist())
    denoiser = from_prediction(diffusion.model, chain, predicts=OBJECTIVES[diffusion.objective], label=sd.TimeLabel(N, -1))
    return sd.Clipped(denoiser, -1.0, 1.0)


def assert_same(samples, expected):
    assert (expected.abs() < 1).float().mean() > 0.1  # not all clipped
    assert (samples - expected).abs().max() < 1e-5  # measured: 2e-6, in float32


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_our_ddim_on_its_model_gives_its_ddim_samples(diffusion, objective, eta):
    model = diffusion(objective, sampling_timesteps=7, ddim_sampling_eta=eta)
    torch.manual_seed(1)
    expected = model.ddim_sample(SHAPE)
    torch.manual_seed(1)
    steps = torch.linspace(-1, N - 1, 8).int().flip(0)  # theirs, which end on the data
    samples = sd.sample(ours(model), sd.DDIM(eta), x=torch.randn(SHAPE), grid=(steps + 1).double() / N, noise=torch.randn_like)
    assert_same(samples, expected)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_our_ancestral_sampler_on_its_model_gives_its_samples(diffusion, objective):
    model = diffusion(objective)
    torch.manual_seed(1)
    expected = model.p_sample_loop(SHAPE)
    torch.manual_seed(1)
    grid = torch.linspace(1, 0, N + 1, dtype=torch.float64)
    samples = sd.sample(ours(model), sd.Ancestral(), x=torch.randn(SHAPE), grid=grid, noise=torch.randn_like)
    assert_same(samples, expected)
