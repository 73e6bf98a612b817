"""Data whose score is known: mixtures of Gaussians on a ring and in 64 dimensions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import sde_diffusion as sd


def ring(sde: sd.AffineSDE, *, radius: float = 1.0, std: float = 0.1, standardized: bool = False) -> sd.GaussianMixtureDenoiser:
    """8 equal modes on a circle; standardized: of mean coordinate variance 1."""
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    centers = radius * torch.stack([angles.cos(), angles.sin()], 1)
    if not standardized:
        return sd.GaussianMixtureDenoiser(centers, std, None, sde)
    return _standardized(torch.full((8,), 0.125, dtype=torch.float64), centers, torch.full_like(centers, std**2), sde)


def mix64(sde: sd.AffineSDE, *, seed: int = 0, dimension: int = 64) -> sd.GaussianMixtureDenoiser:
    """10 modes in 64 dimensions, or as many as `dimension` says, of mean 0 and mean coordinate variance 1."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((10,), (10, dimension), (10, dimension))
    weights, means, widths = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return _standardized(weights.softmax(0), means, (0.5 * widths - 1.5).exp(), sde)


def _standardized(weights: Tensor, means: Tensor, variances: Tensor, sde: sd.AffineSDE) -> sd.GaussianMixtureDenoiser:
    mean = weights @ means
    scale = (weights @ (variances + means**2) - mean**2).mean().sqrt()
    return sd.GaussianMixtureDenoiser((means - mean) / scale, variances.sqrt() / scale, weights, sde)
