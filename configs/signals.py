"""Waveforms (1, 64): a one-dimensional U-Net.

    sde-diffusion train --config configs/signals.py --workdir runs/signals
    sde-diffusion evaluate --workdir runs/signals --solver auto --nfe 20 --n 2000

Hardware: 2 CPU cores. Duration: DURATION. Expected: EXPECTED
"""

from sde_diffusion.training import default_config


def get_config():
    config = default_config()
    config.data = "signals"
    config.network = "UNet(UNetConfig(dims=1, channels=1, width=32, multipliers=(1, 2, 2, 2), attention=(2, 3)))"
    config.batch_size = 64
    config.steps = 3000
    config.schedule = "cosine"
    return config
