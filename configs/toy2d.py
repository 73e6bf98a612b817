"""The variance-preserving SDE on eight Gaussians on a ring: the two-dimensional toy.

    sde-diffusion train --config configs/toy2d.py --workdir runs/toy2d
    sde-diffusion evaluate --workdir runs/toy2d --solver "DDIM()" --steps 50 --n 360

Hardware: 2 CPU cores.  Duration: @TIME@.  Expected: @NUMBER@.
"""

from sde_diffusion.training import default_config


def get_config():
    config = default_config()
    config.sde = "VPSDE()"
    config.network = "MLP(dim=2, width=128, depth=3)"
    config.data = "ring"  # or moons, checkerboard
    config.batch_size = 512
    return config
