"""How much each noise level counts: loss = weight(t) mean |x0_hat - x0|^2.

With SNR = alpha^2/sigma^2, and s for sigma_data,

simple        SNR                                    = mean |eps_hat - eps|^2                 (DDPM's L_simple; NCSN's, by x/alpha)
likelihood    g^2 alpha^2/sigma^4 = -dSNR/dt         = g^2 mean |score_hat - score|^2         (bounds the likelihood)
sigmoid       the same, times 1/(1 + SNR/exp(bias))  = the likelihood of data with noise of random strength
EDM           SNR + 1/s^2                            = 1/c_out^2 of the parameterization EDM
v             SNR + 1                                = 1/c_out^2 of the parameterization V: mean |v_hat - v|^2
P2            SNR/(k + SNR)^gamma                    = (k + SNR)^(-gamma) mean |eps_hat - eps|^2
min-SNR       min(SNR, gamma)                        = min(1, gamma/SNR) mean |eps_hat - eps|^2
soft min-SNR  1/(1/SNR + 1/gamma)                    = half the harmonic mean of SNR and gamma
constant      1
"""

from __future__ import annotations

import abc
import dataclasses
import math

import torch
from torch import Tensor

from sde_diffusion.expressions import plain_floats
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_positive


class Weighting(abc.ABC):
    """A function of time; final subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def __call__(self, sde: AffineSDE, t: Tensor) -> Tensor:
        """The weight at times t, of the shape of t."""


@dataclasses.dataclass(frozen=True)
class SimpleWeighting(Weighting):
    """alpha^2/sigma^2: every noise level's mean squared error of eps counts the same (Ho et al. 2020, eq 14; Song & Ermon 2019)."""

    def __call__(self, sde: AffineSDE, t: Tensor) -> Tensor:
        return _snr(sde, t)


@dataclasses.dataclass(frozen=True)
class LikelihoodWeighting(Weighting):
    """g^2 alpha^2/sigma^4: the loss bounds the negative log-likelihood (Song et al. 2021, arXiv 2101.09258)."""

    def __call__(self, sde: AffineSDE, t: Tensor) -> Tensor:
        return (sde.g(t) * sde.alpha(t) / sde.sigma(t) ** 2) ** 2


@dataclasses.dataclass(frozen=True)
class EDMWeighting(Weighting):
    """1/c_out^2: the network's own error counts the same at every noise level (Karras et al. 2022).

    Args:
        sigma_data: standard deviation of the data, > 0.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(sigma_data=self.sigma_data)

    def __call__(self, sde: AffineSDE, t: Tensor) -> Tensor:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        return (alpha**2 * self.sigma_data**2 + sigma**2) / (sigma * self.sigma_data) ** 2


@dataclasses.dataclass(frozen=True)
class VWeighting(Weighting):
    """SNR + 1: the mean squared error of v = alpha eps - sigma x_0, of states brought to alpha^2 + sigma^2 = 1 (Salimans & Ho 2022)."""

    def __call__(self, sde: AffineSDE, t: Tensor) -> Tensor:
        return _snr(sde, t) + 1


@dataclasses.dataclass(frozen=True)
class MinSNRWeighting(Weighting):
    """min(SNR, gamma): low noise, which SimpleWeighting counts most, counts no more than gamma (Hang et al. 2023, arXiv 2303.09556).

    Args:
        gamma: > 0; the paper's is 5.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(gamma=self.gamma)

    def __call__(self, sde: AffineSDE, t: Tensor) -> Tensor:
        return _snr(sde, t).clamp(max=self.gamma)


@dataclasses.dataclass(frozen=True)
class SoftMinSNRWeighting(Weighting):
    """gamma SNR/(SNR + gamma): the smaller of the two without a kink (Crowson et al. 2024, arXiv 2401.11605).

    With alpha = 1 it is 1/(sigma^2 + sigma_data^2) for gamma = 1/sigma_data^2.

    Args:
        gamma: > 0; the paper's is 4, for sigma_data = 1/2.
    """

    gamma: float = 4.0

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(gamma=self.gamma)

    def __call__(self, sde: AffineSDE, t: Tensor) -> Tensor:
        return 1 / ((sde.sigma(t) / sde.alpha(t)) ** 2 + 1 / self.gamma)


@dataclasses.dataclass(frozen=True)
class P2Weighting(Weighting):
    """SNR/(k + SNR)^gamma: less for the low noise at which only imperceptible detail is learned (Choi et al. 2022, arXiv 2204.00227).

    Args:
        k: > 0; the paper's is 1.
        gamma: >= 0, 1 or 0.5 in the paper; 0 is SimpleWeighting.
    """

    k: float = 1.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(k=self.k)
        if not (math.isfinite(self.gamma) and self.gamma >= 0):
            raise ValueError(f"gamma must be a number, at least 0, got {self.gamma}; 0 is SimpleWeighting()")

    def __call__(self, sde: AffineSDE, t: Tensor) -> Tensor:
        snr = _snr(sde, t)
        return snr / (self.k + snr) ** self.gamma


@dataclasses.dataclass(frozen=True)
class SigmoidWeighting(Weighting):
    """g^2 alpha^2/sigma^4 sigmoid(bias - log SNR): likelihood, but ever less where the noise is low.

    With l = log SNR this is -dl/dt SNR sigmoid(bias - l) = -dl/dt exp(bias) sigmoid(l - bias), weights that fall with l and do not depend
    on the speed at which the process runs (Kingma & Gao 2023, arXiv 2303.00848; Hoogeboom et al. 2024, arXiv 2410.19324). Times uniform
    in l, LikelihoodTimes with unbiased=True, take -dl/dt out.

    Args:
        bias: the log SNR at which the weight of the likelihood is halved; 2 in the first paper, lower for larger pictures in the second.
    """

    bias: float = 2.0

    def __post_init__(self) -> None:
        plain_floats(self)
        if not math.isfinite(self.bias):
            raise ValueError(f"bias must be finite, got {self.bias}")

    def __call__(self, sde: AffineSDE, t: Tensor) -> Tensor:
        return LikelihoodWeighting()(sde, t) * torch.sigmoid(self.bias - 2 * sde.log_snr(t))


@dataclasses.dataclass(frozen=True)
class ConstantWeighting(Weighting):
    """1: the mean squared error of x0_hat."""

    def __call__(self, sde: AffineSDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)


def _snr(sde: AffineSDE, t: Tensor) -> Tensor:
    return (sde.alpha(t) / sde.sigma(t)) ** 2
