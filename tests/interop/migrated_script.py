"""A script in the way of score_sde_pytorch's README and notebook; only its imports were changed. They read

import sde_lib
from likelihood import get_likelihood_fn
from models.utils import get_score_fn
from sampling import (AncestralSamplingPredictor, ...)
"""

import math

import torch

from sde_diffusion.interop import score_sde as sde_lib
from sde_diffusion.interop.score_sde import (
    AncestralSamplingPredictor,
    Corrector,
    EulerMaruyamaPredictor,
    LangevinCorrector,
    Predictor,
    ReverseDiffusionPredictor,
    get_corrector,
    get_likelihood_fn,
    get_ode_sampler,
    get_pc_sampler,
    get_predictor,
    get_sampling_fn,
    get_score_fn,
    register_corrector,
    register_predictor,
)


class AttributeDict(dict):
    """As much of ml_collections.ConfigDict as is used."""

    __getattr__ = dict.__getitem__


config = AttributeDict(
    device="cpu",
    training=AttributeDict(continuous=True),
    sampling=AttributeDict(
        method="pc",
        predictor="reverse_diffusion",
        corrector="langevin",
        n_steps_each=1,
        noise_removal=True,
        probability_flow=False,
        snr=0.16,
    ),
)


def inverse_scaler(x):
    return (x + 1.0) / 2.0


class GaussianModel(torch.nn.Module):
    """Stands for a trained network: the exact model of data N(mean, std^2)."""

    def __init__(self, sde, mean=0.3, std=0.5):
        super().__init__()
        self.sde, self.mean, self.std = sde, mean, std

    def forward(self, x, labels):
        sde = self.sde
        exploding = isinstance(sde, sde_lib.VESDE)
        t = torch.log(labels / sde.sigma_min) / math.log(sde.sigma_max / sde.sigma_min) if exploding else labels / 999
        alpha, sigma = sde.marginal_prob(torch.ones_like(x), t)
        score = -(x - alpha * self.mean) / ((alpha * self.std) ** 2 + sigma[:, None, None, None] ** 2)
        return score if exploding else -score * sigma[:, None, None, None]


@register_predictor(name="heun_like")
class HeunPredictor(Predictor):
    """A predictor of the user's own: Euler's step of the flow, corrected."""

    def update_fn(self, x, t):
        h = 1.0 / self.rsde.N
        flow = self.sde.reverse(self.score_fn, probability_flow=True)
        slope = flow.sde(x, t)[0]
        s = torch.clamp(t - h, min=1e-5)
        step = (t - s)[:, None, None, None]
        x_mean = x - step * (slope + flow.sde(x - step * slope, s)[0]) / 2
        return x_mean, x_mean


@register_corrector(name="fixed_step")
class FixedStepCorrector(Corrector):
    """A corrector of the user's own: Langevin moves of a given fraction of the variance."""

    def update_fn(self, x, t):
        step = (self.snr * self.sde.marginal_prob(x, t)[1])[:, None, None, None] ** 2
        for _ in range(self.n_steps):
            x_mean = x + step * self.score_fn(x, t)
            x = x_mean + torch.sqrt(2 * step) * torch.randn_like(x)
        return x, x_mean


def main(kind="vpsde", num_scales=100, batch_size=1024):
    if kind == "vpsde":
        sde = sde_lib.VPSDE(beta_min=0.1, beta_max=20.0, N=num_scales)
        sampling_eps = 1e-3
    elif kind == "subvpsde":
        sde = sde_lib.subVPSDE(beta_min=0.1, beta_max=20.0, N=num_scales)
        sampling_eps = 1e-3
    else:
        sde = sde_lib.VESDE(sigma_min=0.01, sigma_max=50.0, N=num_scales)
        sampling_eps = 1e-5
    score_model = GaussianModel(sde)
    shape = (batch_size, 1, 2, 2)
    samples = {}

    # Predictor-corrector sampling
    for name, predictor, corrector in (
        ("reverse diffusion, Langevin", ReverseDiffusionPredictor, LangevinCorrector),
        ("reverse diffusion", ReverseDiffusionPredictor, None),
        ("Euler-Maruyama", EulerMaruyamaPredictor, None),
        ("ancestral, own corrector", AncestralSamplingPredictor, get_corrector("fixed_step")),
        ("own predictor", get_predictor("heun_like"), get_corrector("none")),
    ):
        if kind == "subvpsde" and predictor is AncestralSamplingPredictor:
            continue
        sampling_fn = get_pc_sampler(
            sde,
            shape,
            predictor,
            corrector,
            inverse_scaler,
            snr=0.16,
            n_steps=1,
            probability_flow=False,
            continuous=config.training.continuous,
            eps=sampling_eps,
            device=config.device,
        )
        samples[name], _ = sampling_fn(score_model)
    samples["by configuration"], _ = get_sampling_fn(config, sde, shape, inverse_scaler, sampling_eps)(score_model)

    # Probability flow ODE
    sampling_fn = get_ode_sampler(sde, shape, inverse_scaler, denoise=True, rtol=1e-5, atol=1e-5, eps=sampling_eps, device=config.device)
    samples["ODE"], _ = sampling_fn(score_model)

    # Likelihood
    data = score_model.mean + score_model.std * torch.randn(16, 1, 2, 2)
    bpd, z, _ = get_likelihood_fn(sde, inverse_scaler, eps=1e-5)(score_model, data)

    # Controllable generation begins with the score function
    score_fn = get_score_fn(sde, score_model, train=False, continuous=True)
    score = score_fn(data, torch.full((16,), 0.5))
    return samples, (data, bpd, z), score


if __name__ == "__main__":
    for kind in ("vpsde", "subvpsde", "vesde"):
        samples, (_, bpd, _), _ = main(kind)
        for name, x in samples.items():
            print(f"{kind:10}{name:32}{2 * x.mean() - 1:8.3f}{2 * x.std():8.3f}")
        print(f"{kind:10}{bpd.mean():.3f} bits/dim")
