"""Processes in which the signal stays and the noise grows: variance-exploding. alpha = 1, f = 0, g^2 = d sigma^2/dt.

    geometric   sigma = sigma_min (sigma_max/sigma_min)^t                                         (1)
    EDM         sigma = (sigma_min^(1/rho) + t (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho       (2)

Song et al. 2021 (arXiv 2011.13456) for (1), with n levels NCSN's ladder; Karras et al. 2022 (2206.00364) for (2), whose uniform grid in t
is that paper's time-step grid. The exact variance from t = 0 is sigma(t)^2 - sigma_min^2; both papers take sigma(t)^2, and so do we:
the data then carry sigma_min of noise at t = 0.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from sde_diffusion.expressions import plain_floats
from sde_diffusion.sdes.base import AffineSDE, check_less, check_positive, check_steps, check_times
from sde_diffusion.sdes.chains import NCSNLadder, geometric_sigmas
from sde_diffusion.shapes import Time, as_time


@dataclasses.dataclass(frozen=True)
class VESDE(AffineSDE):
    """The variance-exploding process (1); NCSN is its discretisation.

    Args:
        sigma_min: noise at t = 0, > 0, in units of the data.
        sigma_max: noise at t = 1, about the largest distance between two data points.
        t_min: where sampling stops.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = dataclasses.field(default=1e-5, kw_only=True)  # Song et al.'s sampling epsilon

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        check_less(sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        check_times(self.t_min, self.t_max, zero=True)

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(as_time(t))

    def sigma(self, t: Time) -> Tensor:
        return self.sigma_min * torch.exp(self._log_ratio * as_time(t))

    def f(self, t: Time) -> Tensor:
        return torch.zeros_like(as_time(t))

    def g(self, t: Time) -> Tensor:
        return self.sigma(t) * math.sqrt(2 * self._log_ratio)

    def t_of_log_snr(self, lam: Time) -> Tensor:
        return (-as_time(lam) - math.log(self.sigma_min)) / self._log_ratio

    def alpha_of_log_snr(self, lam: Time) -> Tensor:
        return torch.ones_like(as_time(lam))

    def discretize(self, n: int) -> NCSNLadder:
        """NCSN's ladder of n levels in geometric progression, sigma_i = sigma((i-1)/(n-1)) at t = i/n, and no noise at t = 0."""
        return NCSNLadder(geometric_sigmas(check_steps(n), self.sigma_min, self.sigma_max))


@dataclasses.dataclass(frozen=True)
class EDMSDE(AffineSDE):
    """The variance-exploding process (2) of Karras et al.

    Args:
        sigma_min: noise at t = 0, > 0.
        sigma_max: noise at t = 1.
        rho: how much more time is spent at low noise, > 0; 1 is linear in sigma.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    t_min: float = dataclasses.field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(sigma_min=self.sigma_min, sigma_max=self.sigma_max, rho=self.rho)
        check_less(sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        check_times(self.t_min, self.t_max, zero=True)

    @property
    def _ends(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def _root(self, t: Time) -> Tensor:
        low, high = self._ends
        return low + (high - low) * as_time(t)

    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(as_time(t))

    def sigma(self, t: Time) -> Tensor:
        return self._root(t) ** self.rho

    def f(self, t: Time) -> Tensor:
        return torch.zeros_like(as_time(t))

    def g(self, t: Time) -> Tensor:
        low, high = self._ends
        root = self._root(t)
        return torch.sqrt(2 * self.rho * (high - low) * root ** (2 * self.rho - 1))

    def t_of_log_snr(self, lam: Time) -> Tensor:
        low, high = self._ends
        return (torch.exp(-as_time(lam) / self.rho) - low) / (high - low)

    def alpha_of_log_snr(self, lam: Time) -> Tensor:
        return torch.ones_like(as_time(lam))
