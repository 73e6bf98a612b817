"""What the probability of the data is, given the first noisy state: the last factor of a chain's model.

    -log p(x_0 | x),    p a law around x0_hat, or around the state itself, x/alpha

of data with a density, or of data on the values low, low + width, ..., high, whose probabilities sum to 1 (Ho et al. 2020, arXiv
2006.11239, section 3.3; Kingma et al. 2021, arXiv 2107.00630). variational.py says which mean and variance they are given.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from sde_diffusion.expressions import plain_floats
from sde_diffusion.sdes.base import check_less, check_positive
from sde_diffusion.shapes import sum_event

_ON_BIN = 1e-3  # of a bin, how far a number may lie from a centre: float32 rounding of 256 bins is 4e-6
_FAR = 40.0  # standard deviations that stand for infinity: 1 - Phi(40) = 4e-350, and unlike infinity it has a gradient


class Decoder(abc.ABC):
    """-log p(x_0 | x_first), by a Gaussian around a mean; final subclasses are frozen dataclasses."""

    around_state: ClassVar[bool] = False
    """Whether the mean is the noisy state itself, x/alpha, and not x0_hat."""

    @abc.abstractmethod
    def nats(self, x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """-log p(x_0 | mean), shape (b,), of data x0 (b, *d) for a log-variance that broadcasts over them; all in float64."""

    def check(self, x0: Tensor) -> None:  # noqa: B027 (a density is of any data)
        """Raises ValueError for data that are not the decoder's."""


@dataclasses.dataclass(frozen=True)
class GaussianDecoder(Decoder):
    """The density N(x_0; x0_hat, c^2 I), for continuous data; c = sigma/alpha of the first noise unless the variance is learned."""

    def nats(self, x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        return 0.5 * sum_event((x0 - mean) ** 2 * torch.exp(-log_variance) + log_variance + math.log(2 * math.pi))


@dataclasses.dataclass(frozen=True)
class _Bins(Decoder):
    """Data on low, low + width, ..., high."""

    width: float
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(width=self.width)
        check_less(low=self.low, high=self.high)
        bins = (self.high - self.low) / self.width
        if abs(bins - round(bins)) > _ON_BIN:
            raise ValueError(
                f"from {self.low:g} to {self.high:g} there are {bins:.6g} bins of {self.width:g}, not a whole number; "
                f"pass the distance of two neighbouring values, 2/255 for 256 of them on [-1, 1]"
            )

    def check(self, x0: Tensor) -> None:
        self.index(x0)

    def index(self, x0: Tensor) -> Tensor:
        """The numbers 0, 1, ... of the data's bins.

        Raises:
            ValueError: for a number that is none of the values.
        """
        place = (x0 - self.low) / self.width
        k, last = place.round(), round((self.high - self.low) / self.width)
        wrong = ~((k >= 0) & (k <= last) & ((place - k).abs() <= _ON_BIN))
        if wrong.any():
            raise ValueError(
                f"{x0[wrong][0].item():g} is none of the {last + 1} values {self.low:g}, {self.low + self.width:g}, ..., {self.high:g}; "
                "pass the width, low and high of the data, or GaussianDecoder() for continuous data"
            )
        return k.long()


@dataclasses.dataclass(frozen=True)
class DiscretizedDecoder(_Bins):
    """The probability of a bin under N(x0_hat, c^2 I), the first and the last bin reaching to infinity (Ho et al. 2020, eq 13).

        log (Phi((x_0 + w/2 - x0_hat)/c) - Phi((x_0 - w/2 - x0_hat)/c))

    c^2 is c_0^2 of the second step, as in their code, since the first step's is 0; in between that and Q if learned.

    Args:
        width: w > 0, the distance of two neighbouring values: 2/255 for 8-bit images on [-1, 1].
        low: the least value.
        high: the greatest value.

    Raises:
        ValueError: if the range is no whole number of bins; when called, for data that are not on the values.
    """

    def nats(self, x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        k = self.index(x0)
        scale, last = torch.exp(-0.5 * log_variance), round((self.high - self.low) / self.width)
        upper, lower = (x0 - mean + 0.5 * self.width) * scale, (x0 - mean - 0.5 * self.width) * scale
        lower, upper = (
            torch.where(k == 0, upper.clamp(max=0) - _FAR, lower),
            torch.where(k == last, lower.clamp(min=0) + _FAR, upper),
        )
        # In the lower tail, where a difference of two logarithms keeps its digits.
        flip = lower + upper > 0
        lower, upper = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
        a, b = torch.special.log_ndtr(lower), torch.special.log_ndtr(upper)
        return -sum_event(b + torch.log(-torch.expm1(a - b)))


@dataclasses.dataclass(frozen=True)
class SoftmaxDecoder(_Bins):
    """The values in proportion to how well they explain the state, without the network (Kingma et al. 2021, section 3.3).

        p(x_0 | x) = softmax over the values c of -(x/alpha - c)^2/(2 sigma^2/alpha^2)

    Args:
        width: as of `DiscretizedDecoder`.
        low: the least value.
        high: the greatest value.

    Raises:
        ValueError: as of `DiscretizedDecoder`.
    """

    around_state: ClassVar[bool] = True

    def nats(self, x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        k = self.index(x0)
        values = self.low + self.width * torch.arange(round((self.high - self.low) / self.width) + 1, dtype=x0.dtype, device=x0.device)
        logits = -0.5 * (mean[..., None] - values) ** 2 * torch.exp(-log_variance)[..., None]
        return -sum_event(logits.log_softmax(-1).gather(-1, k[..., None])[..., 0])
