"""Colour patches of 16x16 pixels from two photographs.

    sde-diffusion train --config configs/patches.py --workdir runs/patches
    sde-diffusion evaluate --workdir runs/patches --solver auto --nfe 20 --n 1000

Hardware: 1 CPU core. Duration: 10 minutes of CPU time. Expected: docs/patches.png; Fréchet distance in pixels 1.48 times the
real-against-real floor, 1-NN accuracy 0.81, where that of real to real patches is 0.83: the held-out ones are of other regions of the
photographs (1000 samples, one sampling seed).
"""

from sde_diffusion.training import default_config


def get_config():
    config = default_config()
    config.data = "Patches(flip=True)"
    config.sde = "EDMSDE()"
    config.parameterization = "EDM(sigma_data)"
    config.network = "UNet(UNetConfig(channels=3, width=32, multipliers=(1, 2, 2), attention=(2,)))"
    config.loss = "DenoisingScoreMatching(weighting=EDMWeighting(sigma_data), times=LogNormalTimes())"
    config.batch_size = 64
    config.steps = 3000
    config.schedule = "cosine"
    return config
