"""What a network predicts, as four scalars: x0_hat = c_skip x + c_out F(c_in x, c_noise).

    Epsilon    F = eps            c_skip = 1/alpha                      c_out = -sigma/alpha            c_in = 1
    Score      F = sigma score    c_skip = 1/alpha                      c_out = sigma/alpha             c_in = 1
    PlainScore F = score          c_skip = 1/alpha                      c_out = sigma^2/alpha           c_in = 1
    X0         F = x0             c_skip = 0                            c_out = 1                       c_in = 1
    RescaledX0 F = x0, of x/alpha c_skip = 0                            c_out = 1                       c_in = 1/alpha
    V          F = alpha eps - sigma x0, as (alpha x - x0_hat)/sigma where alpha^2 + sigma^2 = 1
               of the state divided by S^(1/2), with S = alpha^2 + sigma^2,
                                  c_skip = alpha/S                      c_out = -sigma/S^(1/2)            c_in = S^(-1/2)
    Flow       F = eps - x0       c_skip = 1/(alpha + sigma)            c_out = -sigma/(alpha + sigma)  c_in = 1
    Velocity   F = dx/dt = f x - g^2/2 score, with r = 2 sigma^2/g^2,
                                  c_skip = (1 + f r)/alpha              c_out = -r/alpha                c_in = 1
    EDM        F of unit variance, with S = alpha^2 sigma_data^2 + sigma^2,
                                  c_skip = alpha sigma_data^2/S         c_out = sigma sigma_data/S^(1/2)  c_in = S^(-1/2)

c_noise is what conditioning.py says, log(sigma/alpha)/4 unless told otherwise.
Ho et al. 2020 (Epsilon), Song & Ermon 2020 (Score: s(x, sigma) = s(x)/sigma), Salimans & Ho 2022 (V), Karras et al. 2022 (EDM, there
with alpha = 1).
"""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from sde_diffusion.denoisers.base import Levels
from sde_diffusion.denoisers.conditioning import Conditioning, LogNoise
from sde_diffusion.expressions import plain_floats
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_positive
from sde_diffusion.shapes import Time


class Scalings(NamedTuple):
    """The four scalars, each of the shape of t."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


class Parameterization(abc.ABC):
    """A rule that turns a network's output into x0_hat."""

    learns_variance: ClassVar[bool] = False
    """Whether the network returns twice as many channels, F first."""

    @abc.abstractmethod
    def x0_weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(c_skip, c_out, c_in) for given signal and noise scale."""

    def scalings(self, sde: AffineSDE, t: Time, conditioning: Conditioning = LogNoise()) -> Scalings:
        """The four scalars at times t."""
        levels = Levels.at(sde, t)
        return Scalings(*self.x0_weights(levels.alpha, levels.sigma), conditioning.label(levels))


@dataclasses.dataclass(frozen=True)
class Epsilon(Parameterization):
    """The network predicts the noise (Ho et al. 2020)."""

    def x0_weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return 1 / alpha, -sigma / alpha, torch.ones_like(alpha)


@dataclasses.dataclass(frozen=True)
class Score(Parameterization):
    """The network predicts the score times sigma (Song & Ermon 2020, technique 3)."""

    def x0_weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return 1 / alpha, sigma / alpha, torch.ones_like(alpha)


@dataclasses.dataclass(frozen=True)
class PlainScore(Parameterization):
    """The network predicts the score itself (Song & Ermon 2019), which is large where the noise is small."""

    def x0_weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return 1 / alpha, sigma**2 / alpha, torch.ones_like(alpha)


@dataclasses.dataclass(frozen=True)
class X0(Parameterization):
    """The network predicts the data."""

    def x0_weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.zeros_like(alpha), torch.ones_like(alpha), torch.ones_like(alpha)


@dataclasses.dataclass(frozen=True)
class RescaledX0(Parameterization):
    """The network predicts the data from x/alpha = x_0 + (sigma/alpha) eps, as k-diffusion's and EDM's models do."""

    def x0_weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.zeros_like(alpha), torch.ones_like(alpha), 1 / alpha


@dataclasses.dataclass(frozen=True)
class V(Parameterization):
    """The network predicts v = alpha eps - sigma x_0 of the state brought to alpha^2 + sigma^2 = 1 (Salimans & Ho 2022)."""

    def x0_weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        power = alpha**2 + sigma**2
        return alpha / power, -sigma / power.sqrt(), 1 / power.sqrt()


@dataclasses.dataclass(frozen=True)
class Flow(Parameterization):
    """The network predicts eps - x_0, the velocity of the straight path from the data to the noise (Liu et al. 2022)."""

    def x0_weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return 1 / (alpha + sigma), -sigma / (alpha + sigma), torch.ones_like(alpha)


@dataclasses.dataclass(frozen=True)
class Velocity(Parameterization):
    """The network predicts dx/dt of the probability-flow ODE of a process, in the direction of growing t (Song et al. 2021, eq. 13).

        dx/dt = f x - g^2/2 score    (for RectifiedFlow it is eps - x_0, as Flow has it)

    Args:
        sde: the process; it must be the denoiser's, for it is time that the velocity refers to.
    """

    sde: AffineSDE

    def x0_weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t = self.sde.t_of_log_snr((alpha.log() - sigma.log()).double())
        return self._weights(alpha, sigma, self.sde.f(t).to(alpha), self.sde.g(t).to(alpha))

    def scalings(self, sde: AffineSDE, t: Time, conditioning: Conditioning = LogNoise()) -> Scalings:
        if sde != self.sde:
            raise ValueError(f"Velocity must have the denoiser's process, got {self.sde!r} and {sde!r}; use Velocity of the latter")
        label = super().scalings(sde, t, conditioning).c_noise
        # At t itself: a chain's f and g jump at its nodes, which t_of_log_snr meets only up to rounding.
        return Scalings(*self._weights(sde.alpha(t), sde.sigma(t), sde.f(t), sde.g(t)), label)

    def _weights(self, alpha: Tensor, sigma: Tensor, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r = torch.where(sigma == 0, 0.0, 2 * (sigma / g) ** 2)  # g may be 0 there too
        return (1 + f * r) / alpha, -r / alpha, torch.ones_like(alpha)


@dataclasses.dataclass(frozen=True)
class EDM(Parameterization):
    """Input, output and target have unit variance at every noise level (Karras et al. 2022, table 1).

    Args:
        sigma_data: standard deviation of the data, > 0.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(sigma_data=self.sigma_data)

    def x0_weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        power = alpha**2 * self.sigma_data**2 + sigma**2
        return alpha * self.sigma_data**2 / power, sigma * self.sigma_data / power.sqrt(), 1 / power.sqrt()


@dataclasses.dataclass(frozen=True)
class LearnedVariance(Parameterization):
    """The network returns 2C channels for data of C: the inner prediction, then 2v - 1 for `Ancestral("learned")`.

        log c^2 = v log Q + (1 - v) log c_0^2

    with the forward and the posterior variance of the step (Nichol & Dhariwal 2021, arXiv 2102.09672).

    Args:
        inner: what the first half of the channels predicts.
    """

    inner: Parameterization = Epsilon()
    learns_variance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Parameterization) or self.inner.learns_variance:
            raise ValueError(f"inner must be a parameterization without variance, such as Epsilon(), got {self.inner!r}")

    def x0_weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.inner.x0_weights(alpha, sigma)
