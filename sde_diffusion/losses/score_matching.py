"""Denoising score matching: a regression of the data on their noisy versions.

    loss(x_0) = weight(t) mean |x0_hat(alpha x_0 + sigma eps, t) - x_0|^2,    t ~ law, eps ~ N(0, I)                            (1)

Its minimiser is E[x_0 | x_t] for every weight and law, hence the score (Vincent 2011; Song & Ermon 2019; Ho et al. 2020, eq 14).

The mean of (1) is int q(t) weight(t) ... dt, with the law's density q. Divided by q(t) it is the same integral for every law,

    loss(x_0) = weight(t)/q(t) mean |x0_hat - x_0|^2,    E loss = int weight(t) E mean |x0_hat - x_0|^2 dt,                     (2)

and the law decides its variance alone. LikelihoodWeighting() makes it (2/d) times the part of the bound on the negative log-likelihood
that is learned, int g^2/2 |score_hat - grad log p(x_t | x_0)|^2 dt (Song et al. 2021, arXiv 2101.09258). With the exact score of the
mixture of N(-1, 0.1^2) and N(1, 0.1^2), 2.95 +- 31 for uniform times from 1e-3 and 5.3 +- 275 from 1e-5, but +- 8 and +- 12 for
LikelihoodTimes().

The mean square may be replaced by a distance that outliers pull less, |.| being the length of the whole sample:

    sqrt(|x0_hat - x_0|^2 + c^2) - c,    c = 0.00054 sqrt(d)                                                                   (3)

(Song & Dhariwal 2023, arXiv 2310.14189). Its minimiser is no longer the mean, but for c -> 0 the geometric median of x_0 given x_t.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.expressions import plain_floats
from sde_diffusion.losses.base import KernelLoss
from sde_diffusion.losses.times import TimeLaw, UniformTimes
from sde_diffusion.losses.weightings import SimpleWeighting, Weighting
from sde_diffusion.noise import Noise
from sde_diffusion.sdes.base import check_positive
from sde_diffusion.shapes import mean_event, sum_event


@dataclasses.dataclass(frozen=True)
class PseudoHuber:
    """The distance (3): |r|^2/(2c) for residuals r much shorter than c, |r| - c for much longer ones; its gradient is shorter than 1.

    Args:
        scale: c/sqrt(d) for samples of d numbers, > 0.
    """

    scale: float = 0.00054

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(scale=self.scale)

    def __call__(self, residual: Tensor) -> Tensor:
        """The distance (b,) for residuals (b, *d)."""
        c = self.scale * math.sqrt(residual[0].numel())
        square = sum_event(residual**2)
        return square / (torch.sqrt(square + c**2) + c)  # the difference of two roots would lose all digits of short residuals


@dataclasses.dataclass(frozen=True)
class DenoisingScoreMatching(KernelLoss):
    """The loss (1), or (2).

    Args:
        weighting: how much each noise level counts.
        times: the law of t.
        stratified: whether the times of a batch are spread evenly, u_i = u + i/b mod 1, which lowers the variance (Kingma et al. 2021).
        unbiased: whether to divide by the law's density (2), so that the law changes the variance of the loss but not its mean.
        distance: what takes the place of the mean square, such as PseudoHuber() (3).

    Raises:
        ValueError: for a law of times that learns without unbiased=True: what the network minimises would change as it goes.
    """

    weighting: Weighting = dataclasses.field(default_factory=SimpleWeighting)
    times: TimeLaw = dataclasses.field(default_factory=UniformTimes)
    stratified: bool = True
    unbiased: bool = dataclasses.field(default=False, kw_only=True)
    distance: PseudoHuber | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.times.learns and not self.unbiased:
            raise ValueError(f"{self.times} learns from the losses, which then must be divided by its density; pass unbiased=True")

    def loss_at(self, denoiser: Denoiser, x0: Tensor, t: Tensor, eps: Tensor | None, cond: Any, draw: Noise) -> Tensor:
        eps = draw(x0) if eps is None else eps
        x0_hat = denoiser(denoiser.sde.perturb(x0, t, eps), t, cond)
        weight = self.weighting(denoiser.sde, t)
        if self.unbiased:
            weight = weight / self.times.density(denoiser.sde, t)
        residual = x0_hat - x0
        return weight.to(x0) * (mean_event(residual**2) if self.distance is None else self.distance(residual))
