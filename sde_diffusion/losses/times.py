"""At which times a network is trained: a law of t, given by its quantile function and its density.

    int w(t) L(t) dt = E[w(t) L(t)/q(t)],    t ~ q                                                                             (1)

is a mean over times of any density q; the law decides its variance alone. What the likelihood asks for grows like 1/t towards the data,
w L ~ g^2/sigma^2. But for every affine process (f and g^2 by alpha and sigma, see sdes/base.py)

    g^2/sigma^2 = d log(sigma^2/alpha^2)/dt = -2 d log_snr/dt,                                                                 (2)

so that the law q ~ g^2/sigma^2, under which 1/t cancels, is uniform in the log-SNR. From VP's, sub-VP's and VE's alpha and sigma it is
uniform in log(e^B - 1), in 2 log(e^B - 1) - B and in t: Song et al. 2021 (arXiv 2101.09258), who list the three.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from sde_diffusion.expressions import plain_floats
from sde_diffusion.noise import Noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_positive


class TimeLaw(abc.ABC):
    """A law of t; final subclasses are frozen dataclasses, or modules where they learn."""

    learns: ClassVar[bool] = False
    """Whether the law changes with the losses that `observe` is told."""

    @abc.abstractmethod
    def quantile(self, sde: AffineSDE, u: Tensor) -> Tensor:
        """The time below which a share u of the draws lies, for u in [0, 1]; uniform u give times of the law."""

    @abc.abstractmethod
    def density(self, sde: AffineSDE, t: Tensor) -> Tensor:
        """The density q(t) at times that the law draws, of their shape; n times the probability where it draws the n nodes of a chain.

        It is infinite where single times have a positive probability beside a density, so that dividing by it counts them as nothing.
        """

    def observe(self, t: Tensor, losses: Tensor) -> None:  # noqa: B027 (most laws have nothing to learn)
        """Tells a law that learns what came of its draws: times (b,) and the detached losses (b,) that the loss returned for them."""


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

    def density(self, sde: AffineSDE, t: Tensor) -> Tensor:
        return torch.full_like(t, 1 / (sde.t_max - self.t_min))


@dataclasses.dataclass(frozen=True)
class LikelihoodTimes(TimeLaw):
    """Of density proportional to g^2/sigma^2, which is uniform in the log-SNR (2): the likelihood's loss has the least variance so.

        q = g^2/(Z sigma^2),    Z = 2 (log_snr(t_min) - log_snr(t_max))

    nearly: as if |eps_hat - eps| were the same at every t. Z is 23.86 for VPSDE() from t_min = 1e-5 (Song et al. 2021, arXiv 2101.09258).

    Args:
        t_min: in [0, 1), where there is noise; as of UniformTimes.
    """

    t_min: float = 1e-5

    def __post_init__(self) -> None:
        plain_floats(self)
        if not 0 <= self.t_min < 1:
            raise ValueError(f"t_min must lie in [0, 1), got {self.t_min}")

    def quantile(self, sde: AffineSDE, u: Tensor) -> Tensor:
        first, last = log_snr_range(sde, self.t_min)
        return sde.t_of_log_snr(first + u * (last - first)).clamp(self.t_min, sde.t_max)

    def density(self, sde: AffineSDE, t: Tensor) -> Tensor:
        first, last = log_snr_range(sde, self.t_min)
        return (sde.g(t) / sde.sigma(t)) ** 2 / (2 * (first - last))


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

    def density(self, sde: AffineSDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)


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
        return sde.t_of_log_snr(-(self.mean + self.std * torch.special.ndtri(u))).clamp(*_ends(sde))

    def density(self, sde: AffineSDE, t: Tensor) -> Tensor:
        z = (-sde.log_snr(t) - self.mean) / self.std
        inside = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) / self.std * 0.5 * (sde.g(t) / sde.sigma(t)) ** 2
        least, most = _ends(sde)
        return torch.where((t <= least) | (t >= most), torch.inf, inside)


def uniforms(x0: Tensor, noise: Noise, *, stratified: bool) -> Tensor:
    """One u in [0, 1] per sample, float64 (b,); if stratified u_i = u + i/b mod 1, which has less variance (Kingma et al. 2021)."""
    u = torch.special.ndtr(noise(x0.new_empty(len(x0), dtype=torch.float64)))
    return (u[:1] + torch.arange(len(x0), dtype=u.dtype, device=u.device) / len(x0)) % 1 if stratified else u


def log_snr_range(sde: AffineSDE, t_min: float) -> tuple[float, float]:
    """log_snr at t_min and at the end of a process.

    Raises:
        ValueError: if t_min is not before that end, or without noise.
    """
    if not t_min < sde.t_max:
        raise ValueError(f"t_min={t_min} must be less than t_max={sde.t_max} of {sde}")
    first, last = sde.log_snr(torch.tensor([t_min, sde.t_max], dtype=torch.float64)).tolist()
    if not math.isfinite(first):
        raise ValueError(f"{sde} has no noise at t_min={t_min}, where the log-SNR is infinite; use a t_min > 0")
    return first, last


def _ends(sde: AffineSDE) -> tuple[float, float]:
    return (sde.t_min if sde.length is None else 1 / sde.length), sde.t_max
