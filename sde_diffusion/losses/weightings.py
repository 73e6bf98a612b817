"""How much each noise level counts: loss = weight(t) mean |x0_hat - x0|^2.

simple        alpha^2/sigma^2                        = mean |eps_hat - eps|^2                 (DDPM's L_simple; NCSN's, by x/alpha)
likelihood    g^2 alpha^2/sigma^4                    = g^2 mean |score_hat - score|^2         (bounds the likelihood)
EDM           (alpha^2 s^2 + sigma^2)/(s sigma)^2    = 1/c_out^2 of the parameterization EDM  (s = sigma_data)
constant      1
"""

from __future__ import annotations

import abc
import dataclasses

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
        return (sde.alpha(t) / sde.sigma(t)) ** 2


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
class ConstantWeighting(Weighting):
    """1: the mean squared error of x0_hat."""

    def __call__(self, sde: AffineSDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)
