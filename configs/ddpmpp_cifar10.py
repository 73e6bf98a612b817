"""DDPM++ on CIFAR-10 (Song et al. 2021, arXiv 2011.13456), as in score_sde_pytorch's configurations.

    sde-diffusion train --config configs/ddpmpp_cifar10.py:vp --workdir runs/ddpmpp_vp
    sde-diffusion evaluate --workdir runs/ddpmpp_vp --solver "EulerMaruyama()" --steps 1000 --n 50000 --device cuda

    variant       process                                       FID      with
    vp            the VP SDE                                    2.55     EulerMaruyama()
    subvp         the sub-VP SDE                                2.61     EulerMaruyama()
    vp_discrete   DDPM's chain of 1000 betas                    2.78     Ancestral("forward")
    vp_deep       as vp, 8 residual blocks per level, not 4     2.41     EulerMaruyama()
    subvp_deep    as subvp, likewise                            2.41     EulerMaruyama()

Hardware: a GPU. Duration: the paper names none. Expected: the FID of the table, with 1000 steps, the best of the checkpoints of every
50 000 steps (table 3 of the paper, and the README of its code). Not trained here.
"""

import dataclasses

from sde_diffusion.networks.published import DDPMPP
from sde_diffusion.training import default_config

VARIANTS = ("vp", "subvp", "vp_discrete", "vp_deep", "subvp_deep")


def get_config(variant="vp"):
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; write ddpmpp_cifar10.py:vp, or one of {', '.join(VARIANTS)}")
    process, _, kind = variant.partition("_")
    config = default_config()
    config.sde = {"vp": "VPSDE()", "subvp": "SubVPSDE()"}[process]
    config.parameterization = "Epsilon()"
    config.conditioning = "TimeLabel(999)"
    config.network = f"UNet({dataclasses.replace(DDPMPP, blocks=8 if kind == 'deep' else 4)})"
    config.loss = "DenoisingScoreMatching(weighting=SimpleWeighting(), times=UniformTimes(1e-5), stratified=False)"
    if kind == "discrete":
        config.sde = "DDPMChain(linear_betas(1000))"
        config.conditioning = "TimeLabel(1000, -1)"
        config.loss = "DenoisingScoreMatching(weighting=SimpleWeighting(), times=ChainTimes(), stratified=False)"
    config.data = "CIFAR10('data/cifar-10-batches-bin', flip=True)"
    config.batch_size = 128
    config.steps = 950_000 if kind == "deep" else 1_300_000
    config.lr = 2e-4
    config.warmup = 5000
    config.ema = (0.9999,)
    config.checkpoint_every = 10_000
    config.keep_every = 50_000
    return config
