"""What networks are trained by."""

from sde_diffusion.losses.score_matching import DenoisingScoreMatching
from sde_diffusion.losses.times import ChainTimes, LogNormalTimes, TimeLaw, UniformTimes
from sde_diffusion.losses.weightings import ConstantWeighting, EDMWeighting, LikelihoodWeighting, SimpleWeighting, Weighting

__all__ = [
    "ChainTimes",
    "ConstantWeighting",
    "DenoisingScoreMatching",
    "EDMWeighting",
    "LikelihoodWeighting",
    "LogNormalTimes",
    "SimpleWeighting",
    "TimeLaw",
    "UniformTimes",
    "Weighting",
]
