"""The sub-variance-preserving SDE on 8x8 digits.

    sde-diffusion train --config configs/subvp_digits.py --workdir runs/subvp_digits
    sde-diffusion evaluate --workdir runs/subvp_digits --solver "DDIM()" --steps 50 --n 360

Hardware: 2 CPU cores.  Duration: @TIME@.  Expected: @NUMBER@.
"""

from sde_diffusion.training import default_config


def get_config():
    config = default_config()
    config.sde = "SubVPSDE()"
    return config
