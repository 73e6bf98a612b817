"""Upper bounds on -log p(x) by whole trajectories: the more of them, the closer to -log p(x).

A trajectory y ~ q(. | x_0) of a chain weighs w = p(x_0, y)/q(y | x_0), E w = p(x_0), and K of them give a tighter bound than one,

    -log p(x_0) <= -E log (w_1 + ... + w_K)/K <= -E log w                                        (1)

(Burda et al. 2016, arXiv 1509.00519), where with the kappa and rho of losses/variational.py, eq 2, and the z ~ N(0, I) that made x_s

    log p(x_s | x_t)/q(x_s | x_t, x_0) = 1/2 sum (z^2 - exp(-rho) (z + sqrt(kappa) (x_0 - x0_hat))^2 - rho)                     (2)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.likelihood.bounds import Bound, spread
from sde_diffusion.likelihood.chain_model import ChainModel
from sde_diffusion.losses.decoders import Decoder
from sde_diffusion.losses.variational import Variance, belief, step_coefficients
from sde_diffusion.noise import Noise, make_noise
from sde_diffusion.sdes.base import check_count
from sde_diffusion.shapes import expand, sum_event
from sde_diffusion.solvers.variance import ReconstructionError


def importance_weighted_bound(
    denoiser: Denoiser,
    x: Tensor,
    *,
    trajectories: int = 16,
    grid: Tensor | Sequence[float] | None = None,
    variance: Variance = "posterior",
    errors: ReconstructionError | None = None,
    decoder: Decoder | None = None,
    noise: Noise | None = None,
    generator: torch.Generator | None = None,
    seeds: Iterable[int] | None = None,
    cond: Any = None,
    differentiable: bool = False,
) -> Bound:
    """The bound (1) of `chain_bound`'s model by K whole trajectories of the forward process: tighter the more they are, exact in the limit.

    Its `prior`, `diffusion` and `reconstruction` are the trajectories' means of -log p/q, which sum to the bound of K = 1, at least `nats`.

    Args:
        denoiser: the belief; its `sde` is the process.
        x: data (b, *d), floating point.
        trajectories: K, at least 1; the standard error needs 2, and many to be trusted: weights are skewed.
        grid: as of `chain_bound`, and so is the rest.
        variance: what c^2 is.
        errors: for "analytic" only.
        decoder: what p(x_0 | x_first) is.
        noise: the source of randomness; or `generator` or `seeds`, one per sample.
        cond: condition handed to the denoiser.
        differentiable: whether gradients flow to x and the parameters, at the cost of keeping all steps in memory.

    Raises:
        ValueError: as `chain_bound`.
    """
    chain = ChainModel.of(denoiser, x, grid, variance, errors, decoder, cond)
    check_count(trajectories=trajectories)
    draw = make_noise(noise, generator=generator, seeds=seeds)
    with torch.set_grad_enabled(differentiable):
        parts = torch.stack([torch.stack(_weigh(chain, draw)) for _ in range(trajectories)])  # (K, 3, b) of -log w
        log_w = -parts.sum(1)
        nats = math.log(trajectories) - log_w.logsumexp(0)
        error = (spread(log_w.softmax(0)) * trajectories).sqrt()
        prior, diffusion, decoded = parts.mean(0)
        return Bound(nats, error, prior, diffusion, decoded, trajectories * (len(chain.times) - chain.decoder.around_state))


def _weigh(chain: ChainModel, draw: Noise) -> tuple[Tensor, Tensor, Tensor]:
    """The prior's, the steps' (2) and the decoder's part of -log w, each (b,), for one trajectory from q(. | x)."""
    sde, x, z = chain.denoiser.sde, chain.x, draw(chain.x)
    t = chain.times[-1].expand(len(x))
    y = sde.perturb(x, t, z)
    log_q = -sum_event(0.5 * z.double() ** 2 + 0.5 * math.log(2 * math.pi)) - x[0].numel() * sde.sigma(chain.times[-1]).log()
    prior = log_q - sde.prior_log_prob(y.double())
    total = torch.zeros_like(prior)
    for s in reversed(chain.times[:-1].unbind()):
        s = s.expand(len(x))
        x0_hat, v = belief(chain.denoiser, y, t, chain.variance, chain.cond)
        z = draw(x)
        kappa, rho = step_coefficients(sde, t, s, variance=chain.variance, v=v, like=x.double())
        moved = z.double() + kappa.sqrt() * (x - x0_hat).double()
        total = total + 0.5 * sum_event(torch.exp(-rho) * moved**2 + rho - z.double() ** 2)
        w_x, w_0, c2 = sde.posterior(s, t)
        y, t = expand(w_x, x) * y + expand(w_0, x) * x + expand(c2.sqrt(), x) * z, s
    return prior, total, chain.decode(y, t)
