"""Integers as numbers, and noise that fills their bins.

A coordinate that is one of L integers k has the centre c_k and the bin B_k of width w. On [low, high],

    c_k = low + w (k + 1/2),  w = (high - low)/L              where noise was added to the data: x = low + w (k + u)               (1)
    c_k = low + w k,          w = (high - low)/(L - 1)        where they lie on the grid                                           (2)

as (2) and (1) of data/pixels.py. States at time t are alpha times data, up to noise, so a density p_t gives d integers the probability

    P(k) = integral of p_t over alpha B_k                                                                                          (3)

For any density q of x on alpha B_k, with K draws x_i of it, Jensen's inequality gives

    -log P(k) <= E[-log 1/K sum_i p_t(x_i)/q(x_i)]                                                                                 (4)

which falls with K, to -log P(k) (Burda et al. 2016, arXiv 1509.00519; K = 1: Theis et al. 2016, arXiv 1511.01844). Two such q:

    uniform            x = alpha (c_k + w (u - 1/2)),  u ~ U(0, 1)                log q = -d log(alpha w)                           (5)
    truncated normal   x = alpha c_k + sigma z,  z ~ N(0, 1) given |z| <= tau,    tau = alpha w/(2 sigma)                          (6)
                       log q = sum_j -z_j^2/2 - log(2 pi)/2 - log sigma - log erf(tau/sqrt 2)

(6) is the process's own noise, which is what the network was trained to see, cut off at the bin's ends (Zheng et al. 2023, 2305.03935): q
is nearly p_t(x | x_0 = c_k), and the bound nearly tight, where p_t knows the grid (2). tau decides on t: tau = 3 is sigma/alpha = w/6,
where the cut takes 0.27 % of the noise. Where p_t is flat over a bin, (5) is tight and (6) is not.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sde_diffusion.expressions import plain_floats
from sde_diffusion.noise import Noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_less
from sde_diffusion.shapes import sum_event

TAU = 3.0  # Zheng et al. 2023
LEAST_TAU = 1.0  # with more noise than this neighbouring integers can no longer be told apart
_ON_GRID = 1e-3  # of a bin, how far a number may lie from a centre: float32 rounding of 256 levels is 4e-6
_EDGE = 1e-5  # of a bin: what float32 rounding may take from a number that lies at a bin's lower end


@dataclass(frozen=True)
class Quantization:
    """How integers became numbers, (1) or (2).

    Args:
        levels: L >= 2, number of integers 0..L-1.
        dequantized: (1), numbers anywhere in their bins; False: (2), numbers on the grid.
        low: lower end of the range.
        high: upper end.

    Raises:
        ValueError: for fewer than two levels, or a range that is empty.
    """

    levels: int
    dequantized: bool = True
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        plain_floats(self)
        if not (self.levels >= 2 and self.levels == int(self.levels)):
            raise ValueError(f"levels must be a whole number, at least 2, got {self.levels}; 8-bit images have 256")
        check_less(low=self.low, high=self.high)

    @property
    def width(self) -> float:
        """w, of a bin."""
        return (self.high - self.low) / (self.levels if self.dequantized else self.levels - 1)

    def values(self, k: Tensor) -> Tensor:
        """The centres c_k of integers k, in float64."""
        return self.low + self.width * (k.double() + (0.5 if self.dequantized else 0.0))

    def integers(self, x: Tensor) -> Tensor:
        """The integers behind data.

        Args:
            x: integers, or numbers in their bins (1) or on the grid (2), of any shape.

        Raises:
            ValueError: for integers out of 0..L-1, numbers out of range, not finite, or between the points of the grid (2), and for other
                types.
        """
        if x.is_complex() or x.dtype == torch.bool:
            raise ValueError(f"data of {self.levels} levels are integers or floating-point numbers, got {x.dtype}; convert them: x.long()")
        if not x.is_floating_point():
            k = x.long()
            if k.numel() and (k.min() < 0 or k.max() >= self.levels):
                raise ValueError(
                    f"{self.levels} levels are the integers 0..{self.levels - 1}, got {k.min().item()}..{k.max().item()}; "
                    "give the number of levels that the data have"
                )
            return k
        place = (x.double() - self.low) / self.width
        k = (place + _EDGE).floor() if self.dequantized else place.round()
        k = torch.where(place == self.levels, self.levels - 1, k) if self.dequantized else k  # high itself
        outside = ~((k >= 0) & (k < self.levels))
        if outside.any():
            value = x[outside][0].item()
            cure = "leave those samples out" if math.isnan(value) else "scale them, or give low= and high="
            raise ValueError(f"data of {self} lie in {self.low:g}..{self.high:g}, got {value:g}; {cure}")
        if not self.dequantized and ((place - k).abs() > _ON_GRID).any():
            value = x[(place - k).abs() > _ON_GRID][0].item()
            raise ValueError(
                f"{value:g} is none of the {self.levels} numbers {self.low:g}, {self.low + self.width:g}, .. {self.high:g}; "
                "give the number of levels that the data have, or dequantized=True if noise was added to them"
            )
        return k.long()


class Dequantized(NamedTuple):
    """A state x (b, *d) in the bins, in float64, and log q(x) (b,)."""

    x: Tensor
    log_q: Tensor


class Dequantization(abc.ABC):
    """A law q of states in the bins; final subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def time(self, sde: AffineSDE, quantization: Quantization, default: float) -> float:
        """The time t of (3), given the one at which likelihoods are usually taken."""

    @abc.abstractmethod
    def draw(self, sde: AffineSDE, t: float, quantization: Quantization, k: Tensor, noise: Noise) -> Dequantized:
        """A draw for integers k (b, *d); `noise` gives its random numbers.

        Raises:
            ValueError: where the law cannot be had at that time.
        """


@dataclass(frozen=True)
class Uniform(Dequantization):
    """Noise that is uniform on the bin, (5): for models of data to which such noise was added."""

    def time(self, sde: AffineSDE, quantization: Quantization, default: float) -> float:
        return default

    def draw(self, sde: AffineSDE, t: float, quantization: Quantization, k: Tensor, noise: Noise) -> Dequantized:
        centres, width = quantization.values(k), quantization.width
        alpha = float(sde.alpha(t))
        u = torch.special.ndtr(noise(centres))
        log_q = torch.full((len(k),), -k[0].numel() * math.log(alpha * width), dtype=torch.float64, device=k.device)
        return Dequantized(alpha * (centres + width * (u - 0.5)), log_q)


@dataclass(frozen=True)
class TruncatedNormal(Dequantization):
    """The noise of the process at time t, cut off at the bin's ends, (6): for models of data on a grid.

    Args:
        tau: half a bin in standard deviations of the noise, at least 1, from which t follows: sigma/alpha = w/(2 tau). Where the process
            has more noise than that at its first time, or t is given, tau follows from t.
    """

    tau: float = TAU

    def __post_init__(self) -> None:
        plain_floats(self)
        if not LEAST_TAU <= self.tau < math.inf:
            raise ValueError(f"tau must be a number of at least {LEAST_TAU:g}, got {self.tau}; {TAU:g} is usual")

    def time(self, sde: AffineSDE, quantization: Quantization, default: float) -> float:
        wanted = math.log(2 * self.tau / quantization.width)
        first = 0.0 if sde.length is None else 1 / sde.length
        if float(sde.log_snr(first)) <= wanted:
            return first
        return max(first, float(sde.t_of_log_snr(torch.tensor(wanted, dtype=torch.float64))))

    def draw(self, sde: AffineSDE, t: float, quantization: Quantization, k: Tensor, noise: Noise) -> Dequantized:
        centres, width = quantization.values(k), quantization.width
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        tau = math.inf if sigma == 0 else alpha * width / 2 / sigma
        if not LEAST_TAU <= tau < math.inf:
            raise ValueError(
                f"at t={t:g} half a bin is {tau:.3g} standard deviations of the noise, and a truncated normal needs {LEAST_TAU:g} or more "
                f"(sigma={sigma:.3g}, bins of {width:.3g}); take another t_min, or dequantization='uniform', which needs no noise"
            )
        inside = math.erf(tau / math.sqrt(2))  # the share of the noise that is kept
        u = torch.special.ndtr(noise(centres))
        z = torch.special.ndtri(math.erfc(tau / math.sqrt(2)) / 2 + inside * u).clamp(-tau, tau)
        log_q = sum_event(-0.5 * z**2 - 0.5 * math.log(2 * math.pi) - math.log(sigma) - math.log(inside))
        return Dequantized(alpha * centres + sigma * z, log_q)


LAWS: dict[str, Dequantization] = {"uniform": Uniform(), "truncated_normal": TruncatedNormal()}
