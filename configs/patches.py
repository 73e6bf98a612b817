"""Colour patches of 16x16 pixels from two photographs.

    sde-diffusion train --config configs/patches.py --workdir runs/patches
    sde-diffusion evaluate --workdir runs/patches --solver auto --nfe 20 --n 2000

Hardware: 1 CPU core. Duration: DURATION. Expected: EXPECTED
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
