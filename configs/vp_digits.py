"""The variance-preserving SDE on 8x8 digits: the quickstart's run.

    sde-diffusion train --config configs/vp_digits.py --workdir runs/vp_digits
    sde-diffusion evaluate --workdir runs/vp_digits --solver "DDIM()" --steps 50 --n 360

Hardware: 2 CPU cores.  Duration: @TIME@.  Expected: @NUMBER@.
"""

from sde_diffusion.training import default_config


def get_config():
    config = default_config()
    config.sde = "VPSDE()"
    return config
