"""Beliefs about the data behind a noisy state: x0_hat = E[x_0 | x_t]."""

from sde_diffusion.denoisers.base import Denoiser, NFECounter
from sde_diffusion.denoisers.clipping import Clipped, DynamicThreshold
from sde_diffusion.denoisers.conditioning import Conditioning, LogNoise, NoiseRatio, SigmaLabel, TimeLabel
from sde_diffusion.denoisers.exact import EmpiricalDenoiser, ExactDenoiser, GaussianDenoiser, GaussianMixtureDenoiser
from sde_diffusion.denoisers.guidance import ClassifierFreeGuidance
from sde_diffusion.denoisers.model_card import ModelCard
from sde_diffusion.denoisers.network import NetworkDenoiser
from sde_diffusion.denoisers.parameterizations import (
    EDM,
    X0,
    Epsilon,
    Flow,
    LearnedVariance,
    Parameterization,
    PlainScore,
    RescaledX0,
    Scalings,
    Score,
    V,
    Velocity,
)
from sde_diffusion.denoisers.score_network import ScoreNetwork

__all__ = [
    "EDM",
    "X0",
    "ClassifierFreeGuidance",
    "Clipped",
    "Conditioning",
    "Denoiser",
    "DynamicThreshold",
    "EmpiricalDenoiser",
    "Epsilon",
    "ExactDenoiser",
    "Flow",
    "GaussianDenoiser",
    "GaussianMixtureDenoiser",
    "LearnedVariance",
    "LogNoise",
    "ModelCard",
    "NFECounter",
    "NetworkDenoiser",
    "NoiseRatio",
    "Parameterization",
    "PlainScore",
    "RescaledX0",
    "Scalings",
    "Score",
    "ScoreNetwork",
    "SigmaLabel",
    "TimeLabel",
    "V",
    "Velocity",
]
