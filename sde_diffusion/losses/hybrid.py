"""Losses that train the variance of a chain's reverse steps (Nichol & Dhariwal 2021, arXiv 2102.09672).

With t a node of a chain's n, drawn with the probability q(t)/n, and L_t its term of the variational bound (losses/variational.py, eq 1) in
bits per dimension,

    L_simple = mean |eps_hat - eps|^2          L_vlb = n L_t                                     (1)
    L_hybrid = (L_simple + weight L_vlb(stop_gradient(x0_hat), v))/q(t)                          (2)

E L_vlb/q is the whole bound but for KL(q(x_1 | x_0) || prior), which nothing trains, whatever the law of t; q = 1 for a uniform one. The
mean is held still in the bound of (2), so that v learns from it, and x0_hat from L_simple only, whose gradients it would drown in noise.

In the authors' code (improved-diffusion) the second term is L_t n/1000, in bits per dimension too: weight = 0.001, whatever n is. Where a
chain has noise at t = 0 already, the decoder's term is no node's and is left out: only the network's belief at t = 0 would learn from it.
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
from sde_diffusion.losses.decoders import Decoder, GaussianDecoder
from sde_diffusion.losses.times import ChainTimes, TimeLaw
from sde_diffusion.losses.variational import (
    Variance,
    belief,
    check_chain,
    check_variance,
    first_node,
    on_nodes,
    reconstruction,
    step_divergence,
)
from sde_diffusion.losses.weightings import SimpleWeighting, Weighting
from sde_diffusion.noise import Noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.shapes import mean_event


class _ChainLoss(KernelLoss):
    """A loss at the nodes of a chain."""

    def check(self, denoiser: Denoiser) -> None:
        super().check(denoiser)
        check_chain(denoiser.sde, type(self).__name__)


@dataclasses.dataclass(frozen=True)
class VariationalLoss(_ChainLoss):
    """The variational bound itself, n L_t/q(t), one term per sample.

    Its terms differ by orders of magnitude: a law of times that follows their second moments makes it trainable (section 3.3).

    Args:
        variance: "learned", by a denoiser with the parameterization LearnedVariance, "posterior" or "forward".
        decoder: what p(x_0 | x_1) is: GaussianDecoder() for continuous data, DiscretizedDecoder(width) for data of finitely many values.
        times: the law of t, on the nodes 1/n, ..., 1.
        stratified: whether the times of a batch are spread evenly, as of `DenoisingScoreMatching`.

    Raises:
        ValueError: when called with a process that is no chain, times between its nodes, data that the decoder does not know, or a
            denoiser that has learned no variance where it should have.
    """

    variance: str = "learned"
    decoder: Decoder = dataclasses.field(default_factory=GaussianDecoder)
    times: TimeLaw = dataclasses.field(default_factory=ChainTimes)
    stratified: bool = True

    def __post_init__(self) -> None:
        check_variance(self.variance)

    def loss_at(self, denoiser: Denoiser, x0: Tensor, t: Tensor, eps: Tensor | None, cond: Any, draw: Noise) -> Tensor:
        self.decoder.check(x0)  # of all data, not only of those whose time is the first
        t = on_nodes(denoiser.sde, t).expand(len(x0))
        x = denoiser.sde.perturb(x0, t, draw(x0) if eps is None else eps)
        x0_hat, v = belief(denoiser, x, t, self.variance, cond)
        return _bits(denoiser.sde, x0, x, x0_hat, t, v, self.variance, self.decoder) / self.times.density(denoiser.sde, t).to(x0)


@dataclasses.dataclass(frozen=True)
class HybridLoss(_ChainLoss):
    """L_hybrid (2): noise prediction, and a variance learned from the variational bound.

    Args:
        vlb_weight: > 0, of L_vlb in bits per dimension.
        weighting: of the first term, weight(t) mean |x0_hat - x0|^2.
        decoder: as of `VariationalLoss`.
        times: as of `VariationalLoss`.
        stratified: as of `VariationalLoss`.

    Raises:
        ValueError: for a weight that is not positive; when called, as `VariationalLoss` with variance="learned".
    """

    vlb_weight: float = 0.001
    weighting: Weighting = dataclasses.field(default_factory=SimpleWeighting)
    decoder: Decoder = dataclasses.field(default_factory=GaussianDecoder)
    times: TimeLaw = dataclasses.field(default_factory=ChainTimes)
    stratified: bool = True

    def __post_init__(self) -> None:
        plain_floats(self)
        if not (math.isfinite(self.vlb_weight) and self.vlb_weight > 0):
            raise ValueError(f"vlb_weight must be a positive number, got {self.vlb_weight}; DenoisingScoreMatching does without the bound")

    def loss_at(self, denoiser: Denoiser, x0: Tensor, t: Tensor, eps: Tensor | None, cond: Any, draw: Noise) -> Tensor:
        self.decoder.check(x0)
        sde = denoiser.sde
        t = on_nodes(sde, t).expand(len(x0))
        x = sde.perturb(x0, t, draw(x0) if eps is None else eps)
        x0_hat, v = belief(denoiser, x, t, "learned", cond)
        simple = self.weighting(sde, t).to(x0) * mean_event((x0_hat - x0) ** 2)
        bound = _bits(sde, x0, x, x0_hat.detach(), t, v, "learned", self.decoder)
        return (simple + self.vlb_weight * bound) / self.times.density(sde, t).to(x0)


def _bits(
    sde: AffineSDE, x0: Tensor, x: Tensor, x0_hat: Tensor, t: Tensor, v: Tensor | None, variance: Variance, decoder: Decoder
) -> Tensor:
    """n L_t of (1), (b,) in the dtype of x0: the decoder's term where t is the first node with noise and a step's elsewhere."""
    n = check_chain(sde, "a variational bound")
    first = t * n <= 1.5 if first_node(sde) else torch.zeros_like(t, dtype=torch.bool)
    terms = torch.zeros_like(t)
    for rows, decoded in ((first, True), (~first, False)):
        if rows.any():
            part, at = (a[rows] for a in (x0, x, x0_hat)), t[rows]
            v_part = None if v is None else v[rows]
            clean, noisy, guess = part
            if decoded:
                value = reconstruction(sde, clean, noisy, guess, at, 2 * at, decoder=decoder, variance=variance, v=v_part)
            else:
                value = step_divergence(sde, clean, guess, at, ((at * n).round() - 1) / n, variance=variance, v=v_part)
            terms = terms.index_put((rows.nonzero()[:, 0],), value)
    return (terms * (n / math.log(2) / x0[0].numel())).to(x0)
