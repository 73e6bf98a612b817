"""Processes in which the signal fades: variance-preserving and sub-variance-preserving.

    B(t) = beta_min t + (beta_max - beta_min) t^2/2,    alpha = exp(-B/2),    f = -beta(t)/2     (1)

    VP       sigma^2 = 1 - exp(-B)       g^2 = beta                                              (2)
    sub-VP   sigma   = 1 - exp(-B)       g^2 = beta (1 - exp(-2B))                               (3)
    cosine   alpha = cos(phi)/cos(phi_0),  phi = (t + s)/(1 + s) pi/2,  sigma^2 = 1 - alpha^2    (4)

Song et al. 2021 (arXiv 2011.13456); Nichol & Dhariwal 2021 (2102.09672) for (4). (2) with n steps is DDPM's chain.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sde_diffusion.expressions import plain_floats
from sde_diffusion.sdes.base import AffineSDE, check_positive, check_steps, check_times
from sde_diffusion.sdes.chains import DDPMChain, cosine_betas, linear_betas
from sde_diffusion.shapes import Time, as_time


@dataclasses.dataclass(frozen=True)
class _LinearBeta(AffineSDE):
    """What VP and sub-VP share: beta(t) and alpha (1)."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = dataclasses.field(default=1e-3, kw_only=True)  # Song et al.'s sampling epsilon

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(beta_max=self.beta_max)
        check_times(self.t_min, self.t_max)
        if not 0 <= self.beta_min <= self.beta_max:
            raise ValueError(f"beta_min must lie in [0, beta_max={self.beta_max}], got {self.beta_min}; swap them?")

    @property
    def prior_std(self) -> float:
        return 1.0

    def beta(self, t: Time) -> Tensor:
        """Rate of decay, beta_min at t = 0 to beta_max at t = 1."""
        return self.beta_min + (self.beta_max - self.beta_min) * as_time(t)

    def integral(self, t: Time) -> Tensor:
        """B(t) = int_0^t beta."""
        t = as_time(t)
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def alpha(self, t: Time) -> Tensor:
        return torch.exp(-0.5 * self.integral(t))

    def f(self, t: Time) -> Tensor:
        return -0.5 * self.beta(t)

    def _t_of_integral(self, b: Tensor) -> Tensor:
        # The root of the quadratic B(t) = b in the form that loses no digits at b -> 0; the clamp is for 0/0 at beta_min = 0.
        b = b.clamp(min=torch.finfo(b.dtype).tiny)
        return 2 * b / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * b))


@dataclasses.dataclass(frozen=True)
class VPSDE(_LinearBeta):
    """The variance-preserving process (1, 2); DDPM is its discretisation.

    Args:
        beta_min: beta at t = 0, in [0, beta_max].
        beta_max: beta at t = 1.
        t_min: where sampling stops.
    """

    def sigma(self, t: Time) -> Tensor:
        return torch.sqrt(-torch.expm1(-self.integral(t)))  # expm1: 1 - exp(-B) loses 4 digits at t = 1e-3

    def g(self, t: Time) -> Tensor:
        return torch.sqrt(self.beta(t))

    def t_of_log_snr(self, lam: Time) -> Tensor:
        return self._t_of_integral(softplus(-2 * as_time(lam)))

    def alpha_of_log_snr(self, lam: Time) -> Tensor:
        return torch.sqrt(torch.sigmoid(2 * as_time(lam)))

    def discretize(self, n: int) -> DDPMChain:
        """DDPM's chain of n steps: beta_i from beta_min/n to beta_max/n in equal steps (Song et al. 2021, appendix E).

        n = 1000 gives Ho et al.'s 1e-4 .. 0.02.

        Raises:
            ValueError: if n <= beta_max, for then the last beta_i is not less than 1.
        """
        if check_steps(n) <= self.beta_max:
            raise ValueError(f"{n} steps give beta_n = {self.beta_max / n:.3g} >= 1; use more than beta_max = {self.beta_max} steps")
        return DDPMChain(linear_betas(n, self.beta_min / n, self.beta_max / n))


@dataclasses.dataclass(frozen=True)
class SubVPSDE(_LinearBeta):
    """The sub-variance-preserving process (1, 3): the same signal as VP, at every time less noise.

    Args:
        beta_min: beta at t = 0, in [0, beta_max].
        beta_max: beta at t = 1.
        t_min: where sampling stops.
    """

    def sigma(self, t: Time) -> Tensor:
        return -torch.expm1(-self.integral(t))

    def g(self, t: Time) -> Tensor:
        return torch.sqrt(self.beta(t) * -torch.expm1(-2 * self.integral(t)))

    def t_of_log_snr(self, lam: Time) -> Tensor:
        # alpha/sigma = exp(-B/2)/(1 - exp(-B)) = 1/(2 sinh(B/2))
        return self._t_of_integral(2 * torch.asinh(0.5 * torch.exp(-as_time(lam))))

    def alpha_of_log_snr(self, lam: Time) -> Tensor:
        return torch.exp(-torch.asinh(0.5 * torch.exp(-as_time(lam))))


@dataclasses.dataclass(frozen=True)
class CosineVPSDE(AffineSDE):
    """The variance-preserving process of the cosine schedule (4).

    Args:
        s: offset that keeps the noise at t = 0 from starting too slowly, > 0.
        t_min: where sampling stops.
        t_max: where sampling starts; at t = 1 alpha is 0 and beta infinite. 0.9946 gives alpha = 0.0085, about linear VP's.
    """

    s: float = 0.008
    t_min: float = dataclasses.field(default=1e-3, kw_only=True)
    t_max: float = dataclasses.field(default=0.9946, kw_only=True)  # Lu et al. 2022 (arXiv 2206.00927) stop there too

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(s=self.s)
        check_times(self.t_min, self.t_max, one=False)

    @property
    def prior_std(self) -> float:
        return 1.0

    @property
    def _rate(self) -> float:
        return 0.5 * math.pi / (1 + self.s)

    @property
    def _phi_0(self) -> float:
        return self._rate * self.s

    def _phi(self, t: Time) -> Tensor:
        return self._rate * (as_time(t) + self.s)

    def alpha(self, t: Time) -> Tensor:
        return torch.cos(self._phi(t)) / math.cos(self._phi_0)

    def sigma(self, t: Time) -> Tensor:
        # cos^2 a - cos^2 b = sin(b - a) sin(b + a): no difference of nearly equal numbers at t -> 0
        phi = self._phi(t)
        return torch.sqrt(torch.sin(self._rate * as_time(t)) * torch.sin(phi + self._phi_0)) / math.cos(self._phi_0)

    def f(self, t: Time) -> Tensor:
        return -self._rate * torch.tan(self._phi(t))

    def g(self, t: Time) -> Tensor:
        return torch.sqrt(-2 * self.f(t))

    def t_of_log_snr(self, lam: Time) -> Tensor:
        lam = as_time(lam)
        variance, signal = torch.sigmoid(-2 * lam), torch.sigmoid(2 * lam)
        sin2 = math.sin(self._phi_0) ** 2 + variance * math.cos(self._phi_0) ** 2
        return torch.atan2(torch.sqrt(sin2), torch.sqrt(signal) * math.cos(self._phi_0)) / self._rate - self.s

    def alpha_of_log_snr(self, lam: Time) -> Tensor:
        return torch.sqrt(torch.sigmoid(2 * as_time(lam)))

    def discretize(self, n: int) -> DDPMChain:
        """Improved DDPM's chain of n steps, each beta_i at most 0.999 (Nichol & Dhariwal 2021)."""
        return DDPMChain(cosine_betas(check_steps(n), self.s))
