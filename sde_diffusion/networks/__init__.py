"""Networks F(x, c_noise, cond) -> like x.  They are plain torch modules and know nothing of diffusion."""

from sde_diffusion.networks.mlp import MLP
from sde_diffusion.networks.published import (
    adm_64,
    ddpm_cifar10,
    ddpmpp_cifar10,
    edm_ddpmpp_cifar10,
    edm_ncsnpp_cifar10,
    improved_ddpm_cifar10,
    ncsnpp_cifar10,
)
from sde_diffusion.networks.unet import UNet, UNetConfig

__all__ = [
    "MLP",
    "UNet",
    "UNetConfig",
    "adm_64",
    "ddpm_cifar10",
    "ddpmpp_cifar10",
    "edm_ddpmpp_cifar10",
    "edm_ncsnpp_cifar10",
    "improved_ddpm_cifar10",
    "ncsnpp_cifar10",
]
