"""A variance-preserving process that learns its schedule (Kingma et al. 2021, "Variational Diffusion Models", arXiv 2107.00630).

    gamma(t) = gamma_0 + (gamma_1 - gamma_0) S(t),    gamma = -2 log(alpha/sigma)                                              (1)
    S(t) = (m(t) - m(0))/(m(1) - m(0)),    m(t) = t + sum_k a_k sigmoid(w_k (t - c_k)),    a_k, w_k > 0                        (2)

S rises from 0 to 1 whatever a, w and c are. In continuous time the variational bound depends on the ends gamma_0 and gamma_1 alone, and
the interior S only sets the variance of its estimate. So the ends are to descend on the loss of a sample, l, and the interior on l^2:

    d(l^2) = 2 l dl                                                                                                            (3)

which is the gradient that it would have anyway, times a number per sample. Inside `weigh_interior` it is multiplied by numbers that
are set before the backward pass: one backward pass gives the network, the ends and the interior what each is due. (The authors' network
m is of the same form, with 1024 random units; ours start from equal ones, evenly spread, and draw nothing.)
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sde_diffusion.sdes.base import AffineSDE, check_count, check_less
from sde_diffusion.sdes.tabulated import LogSNRSDE, TabulatedVPSDE

_SHARE = 0.2  # of m's rise that is the units' at first: far enough from 0 to be learned, and S is off a straight line by less than 0.01
KNOTS = 256


class LearnedSDE(nn.Module, AffineSDE, abc.ABC):
    """An affine process with parameters: it is trained as it is, by `VDMLoss`, and sampled from as its `frozen()`.

    Solvers remember their tables by process, and this one changes: they refuse it. So do losses other than `VDMLoss`, which it would
    lower by its noise levels, whatever the network knows.
    """

    @abc.abstractmethod
    def frozen(self) -> AffineSDE:
        """The process with the present parameters, as a frozen dataclass whose repr builds back."""


class Weights:
    """Numbers per sample that the gradient of an interior is multiplied by; to be set before the backward pass.

    Attributes:
        value: (b,), or None for 1.
    """

    value: Tensor | None = None

    def __call__(self, gradient: Tensor) -> Tensor:
        return gradient if self.value is None else gradient * self.value.to(gradient).reshape(-1, *[1] * (gradient.ndim - 1))


class LearnedVPSDE(LearnedSDE, LogSNRSDE):
    """The process (1), whose parameters are float32; it computes in float64.

    Args:
        log_snr_max: log(alpha/sigma) at t = 0; VDM starts from gamma = -13.3.
        log_snr_min: at t = 1; VDM starts from gamma = 5.
        hidden: number of units in (2).
        learn_endpoints: whether these two are learned too.

    Raises:
        ValueError: unless log_snr_min < log_snr_max and both are finite, and for no units.
    """

    t_min: float = 0.0

    def __init__(self, log_snr_max: float = 6.65, log_snr_min: float = -2.5, *, hidden: int = 32, learn_endpoints: bool = True) -> None:
        super().__init__()
        check_less(log_snr_min=log_snr_min, log_snr_max=log_snr_max)
        if not math.isfinite(log_snr_max - log_snr_min):
            raise ValueError(f"log_snr_min and log_snr_max must be finite, got {log_snr_min} and {log_snr_max}")
        check_count(hidden=hidden)
        self._arguments = f"{float(log_snr_max)}, {float(log_snr_min)}, hidden={hidden}, learn_endpoints={learn_endpoints}"
        ends = torch.tensor([-2.0 * log_snr_max, -2.0 * log_snr_min])
        if learn_endpoints:
            self.ends = nn.Parameter(ends)
        else:
            self.register_buffer("ends", ends)
        self.log_heights = nn.Parameter(torch.full((hidden,), math.log(_SHARE / (1 - _SHARE) / hidden)))
        self.log_rates = nn.Parameter(torch.full((hidden,), math.log(hidden)))
        self.centers = nn.Parameter((torch.arange(hidden) + 0.5) / hidden)
        self._weights: Weights | None = None

    def _gamma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        share, rate = self._interior(t)
        low, high = self.ends.double()
        return low + (high - low) * share, (high - low) * rate

    def _interior(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """S and dS/dt at times t, whose gradients are weighed."""
        heights, rates, centers = self.log_heights.double().exp(), self.log_rates.double().exp(), self.centers.double()

        def units(t: Tensor) -> Tensor:
            return torch.sigmoid(rates * (t[..., None] - centers))

        first, last = (units(end) @ heights for end in t.new_tensor([0.0, 1.0]))
        at = units(t)
        rise = 1 + last - first
        share, rate = (t + at @ heights - first) / rise, (1 + (at * (1 - at)) @ (heights * rates)) / rise
        if self._weights is not None and share.requires_grad:
            for value in (share, rate):
                value.register_hook(self._weights)
        return share, rate

    @contextmanager
    def weigh_interior(self) -> Iterator[Weights]:
        """Evaluations at times (b,) inside have their interior's gradient multiplied by what the yielded `Weights` are set to."""
        self._weights = Weights()
        try:
            yield self._weights
        finally:
            self._weights = None

    @torch.no_grad()
    def frozen(self, *, knots: int = KNOTS) -> TabulatedVPSDE:
        """The process with the present schedule, tabulated.

        Args:
            knots: number of intervals of the table, at least 4.
        """
        t = torch.linspace(0, 1, knots + 1, dtype=torch.float64, device=self.ends.device)
        return TabulatedVPSDE(tuple(self.log_snr(t).tolist()))

    def extra_repr(self) -> str:
        return self._arguments

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._arguments})"
