"""The papers' U-Nets by name, untrained.

    ddpm_cifar10           Ho et al. 2020             35.7 M parameters
    improved_ddpm_cifar10  Nichol & Dhariwal 2021     52.5 M
    ddpmpp_cifar10         Song et al. 2021           61.8 M
    ncsnpp_cifar10         Song et al. 2021           62.8 M
    edm_ddpmpp_cifar10     Karras et al. 2022         55.7 M
    edm_ncsnpp_cifar10     Karras et al. 2022         56.4 M
    adm_64                 Dhariwal & Nichol 2021     296 M

`dataclasses.replace(DDPM, width=64)` makes smaller ones. What c_noise each was trained with is in its sentence; every one
can be trained with another.
"""

from __future__ import annotations

import dataclasses

from sde_diffusion.networks.unet import UNet
from sde_diffusion.networks.unet_config import UNetConfig

DDPM = UNetConfig(
    channels=3,
    width=128,
    multipliers=(1, 2, 2, 2),
    blocks=2,
    slim=False,
    attention=(1,),  # resolution 16 of images of 32
    attention_up="each",
    head_channels=0,
    embedding="ddpm",
    film=False,
    resample_conv=True,
    downsample_padding="after",
    skip_rescale=False,
    dropout=0.1,
    group_channels=1,
    norm_eps=1e-6,
    initialisation="xavier",
)
DDPMPP = dataclasses.replace(
    DDPM, blocks=4, attention_up="last", block="biggan", project_resampled=True, skip_rescale=True, group_channels=4
)
IMPROVED_DDPM = dataclasses.replace(
    DDPM, film=True, embedding="adm", downsample_padding="both", norm_eps=1e-5, initialisation="torch", learned_variance=True
)


NCSNPP = dataclasses.replace(DDPMPP, embedding="fourier", fourier_scale=16.0, fir=(1.0, 3.0, 3.0, 1.0), progressive_input="residual")


def ddpm_cifar10() -> UNet:
    """DDPM's network for CIFAR-10, told the step 0..999: TimeLabel(1000, -1) (Ho et al. 2020, arXiv 2006.11239)."""
    return UNet(DDPM)


def improved_ddpm_cifar10() -> UNet:
    """Improved DDPM's network for CIFAR-10 with a learned variance (Nichol & Dhariwal 2021, arXiv 2102.09672).

    It is told a quarter of the step 0..3999: TimeLabel(1000, -0.25).
    """
    return UNet(dataclasses.replace(IMPROVED_DDPM, blocks=3, attention=(1, 2), heads=4, dropout=0.3))


def ddpmpp_cifar10() -> UNet:
    """DDPM++ (continuous) for CIFAR-10 in [-1, 1], told 999 t: TimeLabel(999) (Song et al. 2021, arXiv 2011.13456)."""
    return UNet(DDPMPP)


def ncsnpp_cifar10() -> UNet:
    """NCSN++ (continuous) for CIFAR-10 in [0, 1], told log sigma: SigmaLabel(log=True) (Song et al. 2021, arXiv 2011.13456)."""
    return UNet(dataclasses.replace(NCSNPP, recentre=True))


def edm_ddpmpp_cifar10() -> UNet:
    """EDM's DDPM++ for CIFAR-10, told log(sigma)/4, the default (Karras et al. 2022, arXiv 2206.00364); without augmentation labels."""
    return UNet(dataclasses.replace(DDPMPP, multipliers=(2, 2, 2), dropout=0.13))


def edm_ncsnpp_cifar10() -> UNet:
    """EDM's NCSN++ for CIFAR-10, told log(sigma)/4, the default (Karras et al. 2022, arXiv 2206.00364); without augmentation labels."""
    return UNet(dataclasses.replace(NCSNPP, multipliers=(2, 2, 2), dropout=0.13))


def adm_64() -> UNet:
    """ADM for 1000 classes at 64x64 with a learned variance, told the step 0..999 (Dhariwal & Nichol 2021, arXiv 2105.05233)."""
    return UNet(
        dataclasses.replace(
            IMPROVED_DDPM,
            width=192,
            multipliers=(1, 2, 3, 4),
            blocks=3,
            attention=(1, 2, 3),
            head_channels=64,
            block="biggan",
            resample_conv=False,
            classes=1000,
        )
    )
