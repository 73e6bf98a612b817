"""EDM on CIFAR-10 (Karras et al. 2022, arXiv 2206.00364): its process, preconditioning, law of noise levels and weighting.

    accelerate launch --num_processes 8 -m sde_diffusion.cli.main train --config configs/edm_cifar10.py:vp --workdir runs/edm_vp
    sde-diffusion evaluate --workdir runs/edm_vp --solver "Heun()" --steps 18 --n 50000 --device cuda

    variant           network            FID without augmentation     with it
    vp                EDM's DDPM++       2.05                         1.97
    ve                EDM's NCSN++       1.99                         1.98
    vp_conditional    likewise           1.88                         1.79   (evaluate --classes all)
    ve_conditional                       1.86                         1.79

Hardware: 8 GPUs. Duration: about 2 days on 8 V100 (the README of the authors' code). Expected: the FID without augmentation of the table
(the paper's table 2, configuration E), for its augmentation is not part of this toolkit; 35 calls of the network, the least of three
draws. Not trained here.

The loss is the authors' over 3072, so Adam's eps is too. Their averaging begins with a half-life of 5 % of the images seen and reaches
500 000 images; here the decay rises as in DDPM. Images are flipped at random, which is the one part of their augmentation that is here.
"""

import dataclasses

from sde_diffusion.networks.published import DDPMPP, NCSNPP
from sde_diffusion.training import default_config

BATCH = 512
VARIANTS = ("vp", "ve", "vp_conditional", "ve_conditional")


def get_config(variant="vp"):
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; write edm_cifar10.py:vp, or one of {', '.join(VARIANTS)}")
    conditional = variant.endswith("conditional")
    config = default_config()
    config.sde = "EDMSDE()"
    config.parameterization = "EDM(sigma_data=0.5)"
    classes = 10 if conditional else 0
    network = dataclasses.replace(NCSNPP if variant.startswith("ve") else DDPMPP, multipliers=(2, 2, 2), dropout=0.13, classes=classes)
    config.network = f"UNet({network})"
    config.loss = (
        "DenoisingScoreMatching(weighting=EDMWeighting(sigma_data=0.5), times=LogNormalTimes(mean=-1.2, std=1.2), stratified=False)"
    )
    config.data = "CIFAR10('data/cifar-10-batches-bin', flip=True)"
    config.conditional = conditional
    config.batch_size = BATCH
    config.steps = 200_000_000 // BATCH
    config.lr = 1e-3
    config.eps = 1e-8 / 3072
    config.warmup = 10_000_000 // BATCH
    config.clip = float("inf")
    config.ema = (0.5 ** (BATCH / 500_000),)
    config.checkpoint_every = 10_000
    config.keep_every = 50_000
    return config
