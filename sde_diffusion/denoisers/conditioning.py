"""What a network is told of the noise: one number per sample, its second argument.

    LogNoise      log(sigma/alpha)/4       Karras et al. 2022, table 1: the same for every process of equal log-SNR
    TimeLabel     scale t + offset         DDPM's step, score_sde's 999 t, a flow's 1000 t
    SigmaLabel    sigma or log sigma       score_sde's VE models
    NoiseRatio    sigma/alpha              k-diffusion's and EDM's models, which are shown x/alpha

A chain of n steps has its node i = 1..n at t = i/n, so DDPM's labels 0..n-1 are n t - 1, and NCSN's, which count from the largest
sigma down, n - n t.
"""

from __future__ import annotations

import abc
import dataclasses
import math

import torch
from torch import Tensor

from sde_diffusion.denoisers.base import Levels
from sde_diffusion.expressions import plain_floats
from sde_diffusion.sdes import AffineSDE

_HALVINGS = 60  # of [0, t_max]: more than float64 has digits


class Conditioning(abc.ABC):
    """A rule for the number that tells a network how noisy its input is."""

    @abc.abstractmethod
    def label(self, levels: Levels) -> Tensor:
        """The number at each of the levels, of their shape."""

    def time(self, sde: AffineSDE, label: Tensor) -> Tensor:
        """The times in [0, t_max], float64, that have these labels; for a rule that grows with t, by halving."""
        low, high = torch.zeros_like(label, dtype=torch.float64), torch.full_like(label, sde.t_max, dtype=torch.float64)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            above = self.label(Levels.at(sde, middle)) > label
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2


@dataclasses.dataclass(frozen=True)
class LogNoise(Conditioning):
    """log(sigma/alpha)/4, about -1.2 to 1.3 (Karras et al. 2022)."""

    def label(self, levels: Levels) -> Tensor:
        return levels.log_snr * -0.25


@dataclasses.dataclass(frozen=True)
class TimeLabel(Conditioning):
    """scale t + offset, for t in [0, 1] of the process that the network was trained for.

    Args:
        scale: 999 for score_sde's continuous VP and sub-VP models, n for a chain of n steps, -n for NCSN's ladder, not 0.
        offset: -1 for a chain, whose labels begin at 0, n for NCSN's ladder.
        whole: whether only whole labels were trained: they are rounded, as a table of embeddings needs.
    """

    scale: float = 1.0
    offset: float = 0.0
    whole: bool = False

    def __post_init__(self) -> None:
        plain_floats(self)
        if not (math.isfinite(self.scale) and self.scale and math.isfinite(self.offset)):
            raise ValueError(f"scale must be finite and not 0, offset finite, got {self}; TimeLabel(999.0) is score_sde's for VP")

    def label(self, levels: Levels) -> Tensor:
        label = levels.time() * self.scale + self.offset
        return torch.round(label) if self.whole else label

    def time(self, sde: AffineSDE, label: Tensor) -> Tensor:
        return ((label.double() - self.offset) / self.scale).clamp(0, sde.t_max)


@dataclasses.dataclass(frozen=True)
class SigmaLabel(Conditioning):
    """sigma itself, or its logarithm (score_sde's NCSN++ for VE).

    Args:
        log: whether the network is told log(sigma).
    """

    log: bool = False

    def label(self, levels: Levels) -> Tensor:
        return torch.log(levels.sigma) if self.log else levels.sigma


@dataclasses.dataclass(frozen=True)
class NoiseRatio(Conditioning):
    """sigma/alpha, the noise of x/alpha."""

    def label(self, levels: Levels) -> Tensor:
        return levels.sigma / levels.alpha
