"""Networks F(x, c_noise, cond) -> like x.  They are plain torch modules and know nothing of diffusion."""

from sde_diffusion.networks.dit import DiT, DiTConfig, dit_b_2, dit_l_2, dit_s_2, dit_xl_2
from sde_diffusion.networks.mlp import MLP
from sde_diffusion.networks.ncsn import NCSN, NCSNv2, ncsn_cifar10, ncsnv2_cifar10
from sde_diffusion.networks.published import (
    adm_64,
    ddpm_cifar10,
    ddpmpp_cifar10,
    edm_ddpmpp_cifar10,
    edm_ncsnpp_cifar10,
    improved_ddpm_cifar10,
    ncsnpp_cifar10,
)
from sde_diffusion.networks.unet import UNet
from sde_diffusion.networks.unet_config import UNetConfig

__all__ = [
    "MLP",
    "NCSN",
    "DiT",
    "DiTConfig",
    "NCSNv2",
    "UNet",
    "UNetConfig",
    "adm_64",
    "ddpm_cifar10",
    "ddpmpp_cifar10",
    "dit_b_2",
    "dit_l_2",
    "dit_s_2",
    "dit_xl_2",
    "edm_ddpmpp_cifar10",
    "edm_ncsnpp_cifar10",
    "improved_ddpm_cifar10",
    "ncsn_cifar10",
    "ncsnpp_cifar10",
    "ncsnv2_cifar10",
]
