import dataclasses

import pytest
import torch

pytest.importorskip("diffusers")

import diffusers

import sde_diffusion as sd
from sde_diffusion.interop.diffusers import from_diffusers, to_diffusers
from sde_diffusion.networks import adm_64, ddpm_cifar10, improved_ddpm_cifar10

with torch.device("meta"):
    DDPM, IMPROVED, ADM = ddpm_cifar10().config, improved_ddpm_cifar10().config, adm_64().config
SMALL = {"width": 32, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "dropout": 0.0}
CHAIN = sd.DDPMChain(sd.linear_betas(1000))


def awake(config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = sd.UNet(config)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return network.eval()


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


CONFIGS = {
    "ddpm": dataclasses.replace(DDPM, **SMALL),
    "improved": dataclasses.replace(IMPROVED, **SMALL, heads=1),
    "improved, heads": dataclasses.replace(IMPROVED, **SMALL, heads=1, head_channels=16),
    "adm": dataclasses.replace(ADM, **SMALL, head_channels=16, classes=4),
    "no attention": dataclasses.replace(DDPM, **(SMALL | {"attention": ()})),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_unet2d_answers_as_ours_and_comes_back(name, tmp_path):
    config = CONFIGS[name]
    kind = sd.LearnedVariance() if config.learned_variance else sd.Epsilon()
    denoiser = sd.NetworkDenoiser(awake(config), CHAIN, kind, sd.TimeLabel(1000, -1))
    pipeline = to_diffusers(denoiser, size=8)
    assert isinstance(pipeline.scheduler, diffusers.DDPMScheduler)
    x, label = normal(2, 3, 8, 8), torch.tensor([3, 700])
    cond = torch.tensor([2, 4]) if config.classes else None
    theirs = pipeline.unet(x, label, class_labels=cond).sample
    ours = denoiser.network(x, label.float(), cond)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
    pipeline.save_pretrained(tmp_path)
    again = from_diffusers(str(tmp_path))
    t = torch.tensor([0.004, 0.701], dtype=torch.float64)
    torch.testing.assert_close(again(x, t, cond), denoiser(x, t, cond), rtol=1e-4, atol=1e-4)


def test_the_pipeline_of_another_process_draws_our_samples():
    denoiser = sd.NetworkDenoiser(awake(CONFIGS["ddpm"]), sd.VPSDE(), sd.V(), sd.TimeLabel(999))
    pipeline = to_diffusers(denoiser, size=8)
    images = pipeline(2, torch.Generator().manual_seed(3), num_inference_steps=5, output_type="np").images
    ours = sd.sample(denoiser, sd.Ancestral(), steps=5, shape=(2, 3, 8, 8), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(torch.from_numpy(images).movedim(-1, 1), (ours / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"skip_rescale": True}, "needs skip_rescale=False"),
        ({"slim": True}, "needs slim=False"),
        ({"embedding": "octaves"}, "needs embedding='ddpm' or 'adm'"),
        ({"attention_up": "last"}, "needs attention_up='each'"),
        ({"fir": (1, 3, 3, 1), "progressive_input": "residual"}, r"needs fir=\(\), progressive_input='none'"),
        ({"group_channels": 8}, "as many groups at every level"),
        ({"recentre": True}, "needs recentre=False"),
        ({"heads": 4}, "as many channels per head at every level"),
    ],
)
def test_a_network_that_it_cannot_express_is_refused_with_what_it_lacks(change, message):
    config = dataclasses.replace(DDPM, **(SMALL | {"attention": (0, 1)}), **change)
    with pytest.raises(ValueError, match=message):
        to_diffusers(sd.NetworkDenoiser(sd.UNet(config), CHAIN, sd.Epsilon()))


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="can express a UNet only, got MLP"):
        to_diffusers(sd.NetworkDenoiser(sd.MLP(), CHAIN, sd.Epsilon()))
    with pytest.raises(ValueError, match="got GaussianDenoiser"):
        to_diffusers(sd.GaussianDenoiser(torch.zeros(1), torch.ones(1), CHAIN))
