"""At which times a network is trained: a law of t, given by its quantile function."""

from __future__ import annotations

import abc
import dataclasses
import math

import torch
from torch import Tensor

from sde_diffusion.expressions import plain_floats
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_positive


class TimeLaw(abc.ABC):
    """A law of t; final subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def quantile(self, sde: AffineSDE, u: Tensor) -> Tensor:
        """The time below which a share u of the draws lies, for u in [0, 1]; uniform u give times of the law."""


@dataclasses.dataclass(frozen=True)
class UniformTimes(TimeLaw):
    """Uniform on [t_min, t_max].

    Args:
        t_min: in [0, 1); 1e-5 in Song et al. 2021, smaller than the time at which sampling stops.
    """

    t_min: float = 1e-5

    def __post_init__(self) -> None:
        plain_floats(self)
        if not 0 <= self.t_min < 1:
            raise ValueError(f"t_min must lie in [0, 1), got {self.t_min}")

    def quantile(self, sde: AffineSDE, u: Tensor) -> Tensor:
        if not self.t_min < sde.t_max:
            raise ValueError(f"t_min={self.t_min} of UniformTimes must be less than t_max={sde.t_max} of {sde}")
        return self.t_min + u * (sde.t_max - self.t_min)


@dataclasses.dataclass(frozen=True)
class ChainTimes(TimeLaw):
    """Uniform on the nodes 1/n, ..., 1 of a chain (Ho et al. 2020).

    Raises:
        ValueError: when used with a process that is not a chain.
    """

    def quantile(self, sde: AffineSDE, u: Tensor) -> Tensor:
        if sde.length is None:
            raise ValueError(f"ChainTimes draws the nodes of a chain, and {sde} is not one; use UniformTimes or sde.discretize(n)")
        return torch.ceil(u * sde.length).clamp(min=1) / sde.length


@dataclasses.dataclass(frozen=True)
class LogNormalTimes(TimeLaw):
    """log(sigma/alpha) is normal (Karras et al. 2022, table 1); times beyond the SDE's ends are moved to them.

    Args:
        mean: of log(sigma/alpha).
        std: of log(sigma/alpha), > 0.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(std=self.std)
        if not math.isfinite(self.mean):
            raise ValueError(f"mean must be finite, got {self.mean}")

    def quantile(self, sde: AffineSDE, u: Tensor) -> Tensor:
        t = sde.t_of_log_snr(-(self.mean + self.std * torch.special.ndtri(u)))
        return t.clamp(sde.t_min if sde.length is None else 1 / sde.length, sde.t_max)
