"""NCSN++ on CIFAR-10 (Song et al. 2021, arXiv 2011.13456), as in score_sde_pytorch's configurations.

    sde-diffusion train --config configs/ncsnpp_cifar10.py:ve --workdir runs/ncsnpp_ve
    sde-diffusion evaluate --workdir runs/ncsnpp_ve --steps 1000 --n 50000 --device cuda \
        --solver "FinalDenoise(PredictorCorrector(ReverseDiffusion(), Langevin(snr=0.16), first='corrector'))"

    variant       process                                       FID
    ve            the VE SDE                                    2.38
    ve_discrete   NCSN's ladder of 1000 levels                  2.45
    ve_deep       as ve, 8 residual blocks per level, not 4     2.20
    vp, subvp     the VP and sub-VP SDEs                        none published with the code

Hardware: a GPU. Duration: the paper names none. Expected: the FID of the table, the best of the checkpoints of every 50 000 steps (table 3
of the paper, and the README of its code); vp and subvp sample with EulerMaruyama(). Not trained here.

The authors train the VE models on images in [0, 1], with sigma from 0.01 to 50 and a network that maps [0, 1] to [-1, 1] first. Images are
in [-1, 1] here, so that sigma is twice theirs and the map is left out: the network sees the same numbers, but for log sigma, which is
larger by log 2. Their VE loss is half the sum over the 3072 values, which Adam does not notice but its eps and the clipping of the
gradient do: both are divided by 1536.
"""

import dataclasses

from sde_diffusion.networks.published import NCSNPP
from sde_diffusion.training import default_config

VARIANTS = ("ve", "ve_discrete", "ve_deep", "vp", "subvp")
HALF_SUM = 3 * 32 * 32 / 2  # times the mean


def get_config(variant="ve"):
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; write ncsnpp_cifar10.py:ve, or one of {', '.join(VARIANTS)}")
    process, _, kind = variant.partition("_")
    positional = process != "ve" or kind == "discrete"
    network = dataclasses.replace(NCSNPP, blocks=8 if kind == "deep" else 4, embedding="ddpm" if positional else "fourier")
    config = default_config()
    config.network = f"UNet({network})"
    config.loss = "DenoisingScoreMatching(weighting=SimpleWeighting(), times=UniformTimes(1e-5), stratified=False)"
    config.data = "CIFAR10('data/cifar-10-batches-bin', flip=True)"
    config.batch_size = 128
    config.steps = 950_000 if kind == "deep" else 1_300_000
    config.lr = 2e-4
    config.warmup = 5000
    config.checkpoint_every = 10_000
    config.keep_every = 50_000
    if process == "ve":
        config.sde = "VESDE(0.02, 100.0)"
        config.parameterization = "Score()"
        config.conditioning = "SigmaLabel(log=True)"
        config.clip = 1 / HALF_SUM
        config.eps = 1e-8 / HALF_SUM
        config.ema = (0.999,)
    else:
        config.sde = {"vp": "VPSDE()", "subvp": "SubVPSDE()"}[process]
        config.parameterization = "Epsilon()"
        config.conditioning = "TimeLabel(999)"
        config.ema = (0.9999,)
    if kind == "discrete":
        config.sde = "NCSNLadder(geometric_sigmas(1000, 0.02, 100.0))"
        config.conditioning = "TimeLabel(-1000, 1000, whole=True)"
        config.loss = "DenoisingScoreMatching(weighting=SimpleWeighting(), times=ChainTimes(), stratified=False)"
    return config
