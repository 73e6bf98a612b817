"""The variance-exploding SDE on 8x8 digits.

    sde-diffusion train --config configs/ve_digits.py --workdir runs/ve_digits
    sde-diffusion evaluate --workdir runs/ve_digits --solver "DDIM()" --steps 50 --n 360

Hardware: 2 CPU cores. Duration: about 3 minutes to train. Expected: Fréchet distance in pixels 1.1 to 1.2 times the
real-against-real floor, 1-NN accuracy 0.58 to 0.60 (two sampling seeds).
"""

from sde_diffusion.training import default_config


def get_config():
    config = default_config()
    config.sde = "VESDE(sigma_max=10.0)"  # the largest distance of two digits is 9.6 (Song and Ermon 2020, technique 1)
    return config
