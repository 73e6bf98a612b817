"""The weight of every noise level, learned: each counts by the inverse of its own error.

    loss(x_0) = l(x_0, t)/exp(u(t)) + u(t)                                                       (1)

for a denoising loss l. Given the denoiser, u = log E[l | t] is the best u, where (1) has the gradient of log E[l | t]: however large the
error of a noise level, its gradient is as large as that of any other. At u = 0 it is l, and up to u itself it remains l with one weight
more, so that its minimiser is the same for every u (Kendall et al. 2018, arXiv 1705.07115; Karras et al. 2024, arXiv 2312.02696).

u is linear in cosines of c = log(sigma/alpha)/4 with random frequencies and phases that stay as they are,

    u = 1/sqrt(n) sum_i w_i sqrt(2) cos(2 pi (a_i c + b_i)),    a_i ~ N(0, 1), b_i ~ U(0, 1),    w_i = 0 at first.             (2)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.losses.base import DrawnLoss
from sde_diffusion.losses.score_matching import DenoisingScoreMatching
from sde_diffusion.noise import Noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_count
from sde_diffusion.shapes import Time


class LearnedUncertainty(nn.Module, DrawnLoss[Denoiser]):
    """The loss (1) with the weights w (2), which are trained with the network and not needed afterwards.

    Args:
        loss: the denoising loss l; Karras et al.'s is `DenoisingScoreMatching(EDMWeighting(0.5), LogNormalTimes(-0.4, 1.0))`.
        channels: n, the number of cosines.
        seed: of their frequencies and phases.

    Raises:
        TypeError: for another loss, such as a bound, which may be negative: (1) has no minimum then.
        ValueError: for a law of times that learns, since it would learn from (1), which may be negative too.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, loss: DenoisingScoreMatching, channels: int = 128, *, seed: int = 0) -> None:
        super().__init__()
        check_count(channels=channels)
        if not isinstance(loss, DenoisingScoreMatching):
            raise TypeError(f"{loss!r} is no mean square, and where it is negative (1) has no minimum; take DenoisingScoreMatching(...)")
        if loss.times.learns:
            raise ValueError(f"{loss.times} would learn from a loss that is no longer a mean square; use a law that does not learn")
        self.loss, self.channels, self.seed = loss, int(channels), int(seed)
        generator = torch.Generator().manual_seed(self.seed)
        self.register_buffer("frequencies", torch.randn(self.channels, generator=generator))
        self.register_buffer("phases", torch.rand(self.channels, generator=generator))
        self.weight = nn.Parameter(torch.zeros(self.channels))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.loss!r}, channels={self.channels}, seed={self.seed})"

    def log_error(self, sde: AffineSDE, t: Time) -> Tensor:
        """u (2) at times t () or (b,), of their shape: what the network's log E[l | t] is thought to be."""
        c = (-0.25 * sde.log_snr(t)).to(self.weight)
        cosines = torch.cos(2 * math.pi * (c[..., None] * self.frequencies + self.phases))
        return cosines @ self.weight * math.sqrt(2 / self.channels)

    forward = DrawnLoss.__call__

    def check(self, denoiser: Denoiser) -> None:
        self.loss.check(denoiser)

    def check_times(self, sde: Any, t: Tensor, x0: Tensor) -> None:
        self.loss.check_times(sde, t, x0)

    def draw_times(self, denoiser: Denoiser, x0: Tensor, noise: Noise) -> Tensor:
        """One time per sample from the law of the inner loss, float64 (b,)."""
        return self.loss.draw_times(denoiser, x0, noise)

    def loss_at(self, denoiser: Denoiser, x0: Tensor, t: Tensor, eps: Tensor | None, cond: Any, draw: Noise) -> Tensor:
        losses = self.loss.loss_at(denoiser, x0, t, eps, cond, draw)
        u = self.log_error(denoiser.sde, t).to(x0)
        return losses * torch.exp(-u) + u
