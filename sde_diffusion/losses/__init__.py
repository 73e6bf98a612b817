"""What networks are trained by."""

from sde_diffusion.losses.base import Loss, Observer
from sde_diffusion.losses.decoders import Decoder, DiscretizedDecoder, GaussianDecoder, SoftmaxDecoder
from sde_diffusion.losses.hybrid import HybridLoss, VariationalLoss
from sde_diffusion.losses.implicit import FiniteDifferenceScoreMatching, ImplicitScoreMatching, SlicedScoreMatching
from sde_diffusion.losses.learned_schedule import VDMLoss
from sde_diffusion.losses.resampling import LossSecondMomentTimes
from sde_diffusion.losses.score_matching import DenoisingScoreMatching, PseudoHuber
from sde_diffusion.losses.simulated import LastStepScoreMatching
from sde_diffusion.losses.times import ChainTimes, LikelihoodTimes, LogNormalTimes, TimeLaw, UniformTimes
from sde_diffusion.losses.uncertainty import LearnedUncertainty
from sde_diffusion.losses.weightings import (
    ConstantWeighting,
    EDMWeighting,
    LikelihoodWeighting,
    MinSNRWeighting,
    P2Weighting,
    SigmoidWeighting,
    SimpleWeighting,
    SoftMinSNRWeighting,
    VWeighting,
    Weighting,
)

__all__ = [
    "ChainTimes",
    "ConstantWeighting",
    "Decoder",
    "DenoisingScoreMatching",
    "DiscretizedDecoder",
    "EDMWeighting",
    "FiniteDifferenceScoreMatching",
    "GaussianDecoder",
    "HybridLoss",
    "ImplicitScoreMatching",
    "LastStepScoreMatching",
    "LearnedUncertainty",
    "LikelihoodTimes",
    "LikelihoodWeighting",
    "LogNormalTimes",
    "Loss",
    "LossSecondMomentTimes",
    "MinSNRWeighting",
    "Observer",
    "P2Weighting",
    "PseudoHuber",
    "SigmoidWeighting",
    "SimpleWeighting",
    "SlicedScoreMatching",
    "SoftMinSNRWeighting",
    "SoftmaxDecoder",
    "TimeLaw",
    "UniformTimes",
    "VDMLoss",
    "VWeighting",
    "VariationalLoss",
    "Weighting",
]
