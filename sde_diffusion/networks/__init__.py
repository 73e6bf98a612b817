"""Networks F(x, c_noise, cond) -> like x.  They are plain torch modules and know nothing of diffusion."""

from sde_diffusion.networks.mlp import MLP
from sde_diffusion.networks.unet import UNet

__all__ = ["MLP", "UNet"]
