"""Forward processes: they turn data (t = 0) into noise (t = 1)."""

from sde_diffusion.sdes.base import SDE, AffineSDE, Posterior, Transition
from sde_diffusion.sdes.chains import (
    AffineChain,
    Chain,
    DDPMChain,
    NCSNLadder,
    cosine_betas,
    geometric_sigmas,
    linear_betas,
    ncsnv2_sigma_max,
    ncsnv2_sigmas,
)
from sde_diffusion.sdes.flow import RectifiedFlow
from sde_diffusion.sdes.learned import LearnedSDE, LearnedVPSDE
from sde_diffusion.sdes.reverse import ReverseSDE
from sde_diffusion.sdes.simulation import simulate
from sde_diffusion.sdes.tabulated import TabulatedVPSDE
from sde_diffusion.sdes.ve import EDMSDE, VESDE
from sde_diffusion.sdes.vp import VPSDE, CosineVPSDE, SubVPSDE

__all__ = [
    "EDMSDE",
    "SDE",
    "VESDE",
    "VPSDE",
    "AffineChain",
    "AffineSDE",
    "Chain",
    "CosineVPSDE",
    "DDPMChain",
    "LearnedSDE",
    "LearnedVPSDE",
    "NCSNLadder",
    "Posterior",
    "RectifiedFlow",
    "ReverseSDE",
    "SubVPSDE",
    "TabulatedVPSDE",
    "Transition",
    "cosine_betas",
    "geometric_sigmas",
    "linear_betas",
    "ncsnv2_sigma_max",
    "ncsnv2_sigmas",
    "simulate",
]
