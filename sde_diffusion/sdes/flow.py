"""The straight path between data and noise: alpha = 1 - t, sigma = t, f = -1/(1 - t), g^2 = 2t/(1 - t).

Liu et al. 2022 (arXiv 2209.03003); Lipman et al. 2022 (2210.02747). There the time often runs the other way.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from sde_diffusion.expressions import plain_floats
from sde_diffusion.sdes.base import AffineSDE, check_times
from sde_diffusion.shapes import Time, as_time


@dataclasses.dataclass(frozen=True)
class RectifiedFlow(AffineSDE):
    """The process whose kernel moves on a straight line, x_t = (1 - t) x_0 + t eps.

    Args:
        t_min: where sampling stops.
        t_max: where sampling starts; at t = 1 the drift coefficient is infinite.
    """

    t_min: float = dataclasses.field(default=1e-3, kw_only=True)
    t_max: float = dataclasses.field(default=0.999, kw_only=True)

    def __post_init__(self) -> None:
        plain_floats(self)
        check_times(self.t_min, self.t_max, one=False)

    @property
    def prior_std(self) -> float:
        return 1.0

    def alpha(self, t: Time) -> Tensor:
        return 1 - as_time(t)

    def sigma(self, t: Time) -> Tensor:
        return as_time(t).clone()

    def f(self, t: Time) -> Tensor:
        return -1 / (1 - as_time(t))

    def g(self, t: Time) -> Tensor:
        t = as_time(t)
        return torch.sqrt(2 * t / (1 - t))

    def t_of_log_snr(self, lam: Time) -> Tensor:
        return torch.sigmoid(-as_time(lam))

    def alpha_of_log_snr(self, lam: Time) -> Tensor:
        return torch.sigmoid(as_time(lam))
