"""Langevin moves that are accepted or rejected, so that the law they keep is p_t itself, at any step.

The Langevin move x' = x + e score(x) + sqrt(2 e) z is a proposal. With d = x' - x, it is accepted with probability min(1, r),

    log r = log p_t(x') - log p_t(x) - d.(s + s')/2 - e/4 (|s'|^2 - |s|^2)                       (1)

where s, s' are the scores at x, x' and the last terms are the two proposal densities' ratio: MALA (Roberts & Tweedie 1996, "Exponential
convergence of Langevin distributions and their discrete approximations"). A denoiser gives no density, but its score does along the way,

    log p_t(x') - log p_t(x) = int_0^1 d.score(x + u d) du                                       (2)

By the trapezoidal rule (2) cancels the next term of (1); a Gauss-Lobatto rule of more nodes u_k, weights w_k, has its ends at s and s' too
and adds sum_k w_k d.(s_k - (s + s')/2) over its inner ones, one call each. The rules are symmetric, so r(x', x) = 1/r(x, x'). A learned
score need not be a gradient; then (2) depends on the way, here the straight one, and no law is kept exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers.exact import ExactDenoiser
from sde_diffusion.expressions import plain_floats
from sde_diffusion.noise import Noise
from sde_diffusion.sdes.base import check_count, check_positive
from sde_diffusion.shapes import expand, sum_event
from sde_diffusion.solvers.correctors import Corrector, Level

_INNER_NODES: dict[str, tuple[tuple[float, float], ...]] = {  # (u, w) of Gauss-Lobatto rules on [0, 1]
    "trapezoid": (),
    "simpson": ((0.5, 2 / 3),),
    "lobatto": ((0.5 - 0.05**0.5, 5 / 12), (0.5 + 0.05**0.5, 5 / 12)),
}


@dataclasses.dataclass(frozen=True)
class MetropolisLangevin(Corrector):
    """Langevin moves of e = 2 (snr sigma)^2, each accepted by (1), sample by sample.

    In many dimensions D the acceptance rate is a function of snr^6 D, and the moves are fastest at a rate of 0.574 (Roberts & Rosenthal
    1998, "Optimal scaling of discrete approximations to Langevin diffusions"); for N(0, sigma^2 I) it is 2 Phi(-snr^3 sqrt(D)).

    Args:
        snr: ratio of the lengths of the score's move and the noise's, > 0.
        steps: moves per noise level.
        density: where the density ratio comes from: "trapezoid" (no further calls; exact where the score is affine), "simpson" (one per
            move) or "lobatto" (two) integrate the score (2), with errors of order |x' - x|^3, ^5 and ^7; "exact" asks a denoiser that
            knows its data law (`ExactDenoiser.log_prob`). One more call per level is the first state's.
        record: called after each move with t and each sample's acceptance probability (b,); not part of what the object equals or prints.

    Raises:
        ValueError: for another density, a snr or a number of steps that is not positive; while sampling, for density="exact" and a
            denoiser without log_prob.
    """

    snr: float = 0.5
    steps: int = 1
    density: str = "simpson"
    record: Callable[[float, Tensor], None] | None = dataclasses.field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(snr=self.snr)
        check_count(steps=self.steps)
        if self.density not in ("exact", *_INNER_NODES):
            raise ValueError(f"density must be 'exact', 'trapezoid', 'simpson' or 'lobatto', got {self.density!r}")

    def moves(self, level: Level, x: Tensor, noise: Noise, cond: Any) -> tuple[Tensor, int]:
        e = 2 * (self.snr * level.sigma) ** 2
        score = level.score(x, cond)
        for _ in range(self.steps):
            new = x + e * score + (2 * e) ** 0.5 * noise(x)
            new_score = level.score(new, cond)
            log_r = self.log_density_ratio(level, x, new, score, new_score, cond) - e / 4 * sum_event(new_score**2 - score**2)
            # log Phi(z) of a normal number is the logarithm of a uniform one: one source of noise is enough.
            accepted = expand(torch.special.log_ndtr(noise(log_r)) < log_r, x).bool()
            x, score = torch.where(accepted, new, x), torch.where(accepted, new_score, score)
            if self.record is not None:
                self.record(level.t, log_r.clamp(max=0).exp())
        return x, 1 + self.steps * (1 + len(_INNER_NODES.get(self.density, ())))

    def log_density_ratio(self, level: Level, x: Tensor, new: Tensor, score: Tensor, new_score: Tensor, cond: Any) -> Tensor:
        """log p(x') - log p(x) - d.(s + s')/2, (b,)."""
        d, mean = new - x, (score + new_score) / 2
        if self.density == "exact":
            if not isinstance(level.denoiser, ExactDenoiser):
                raise ValueError(f"{type(level.denoiser).__name__} has no log_prob; use MetropolisLangevin(density='simpson')")
            return level.denoiser.log_prob(new, level.t) - level.denoiser.log_prob(x, level.t) - sum_event(d * mean)
        inner = _INNER_NODES[self.density]
        return sum_event(d * sum((w * (level.score(x + u * d, cond) - mean) for u, w in inner), torch.zeros_like(d)))
