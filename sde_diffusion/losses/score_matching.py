"""Denoising score matching: a regression of the data on their noisy versions.

    loss(x_0) = weight(t) mean |x0_hat(alpha x_0 + sigma eps, t) - x_0|^2,    t ~ law, eps ~ N(0, I)                            (1)

Its minimiser is E[x_0 | x_t] for every weight and law, hence the score (Vincent 2011; Song & Ermon 2019; Ho et al. 2020, eq 14).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.losses.times import TimeLaw, UniformTimes
from sde_diffusion.losses.weightings import SimpleWeighting, Weighting
from sde_diffusion.noise import Noise, make_noise
from sde_diffusion.shapes import Time, as_time, mean_event


@dataclasses.dataclass(frozen=True)
class DenoisingScoreMatching:
    """The loss (1).

    Args:
        weighting: how much each noise level counts.
        times: the law of t.
        stratified: whether the times of a batch are spread evenly, u_i = u + i/b mod 1, which lowers the variance (Kingma et al. 2021).
    """

    weighting: Weighting = dataclasses.field(default_factory=SimpleWeighting)
    times: TimeLaw = dataclasses.field(default_factory=UniformTimes)
    stratified: bool = True

    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        *,
        t: Time | None = None,
        eps: Tensor | None = None,
        cond: Any = None,
        noise: Noise | None = None,
        generator: torch.Generator | None = None,
        seeds: Iterable[int] | None = None,
    ) -> Tensor:
        """The loss of each sample, (b,).

        Args:
            denoiser: what is trained.
            x0: data (b, *d).
            t: times () or (b,) in [0, 1]; drawn from the law if None.
            eps: standard normal noise (b, *d); drawn if None.
            cond: condition handed to the denoiser.
            noise: the source of t and eps; or `generator` or `seeds`.

        Raises:
            ValueError: for t outside [0, 1] or of another length than x0.
        """
        draw = make_noise(noise, generator=generator, seeds=seeds)
        t = self.draw_times(denoiser, x0, draw) if t is None else _checked(as_time(t, x0), x0)
        eps = draw(x0) if eps is None else eps
        x0_hat = denoiser(denoiser.sde.perturb(x0, t, eps), t, cond)
        return self.weighting(denoiser.sde, t).to(x0) * mean_event((x0_hat - x0) ** 2)

    def draw_times(self, denoiser: Denoiser, x0: Tensor, noise: Noise) -> Tensor:
        """One time per sample from the law, float64 (b,)."""
        u = torch.special.ndtr(noise(x0.new_empty(len(x0), dtype=torch.float64)))
        if self.stratified:
            u = (u[0] + torch.arange(len(x0), dtype=u.dtype, device=u.device) / len(x0)) % 1
        return self.times.quantile(denoiser.sde, u)


def _checked(t: Tensor, x0: Tensor) -> Tensor:
    if t.shape not in {(), (len(x0),)}:
        raise ValueError(f"t must have shape () or ({len(x0)},), one time per sample, got {tuple(t.shape)}")
    if not ((t >= 0) & (t <= 1)).all():
        raise ValueError(f"t must lie in [0, 1] (0 = data, 1 = noise), got {t.min().item():g} to {t.max().item():g}")
    return t
