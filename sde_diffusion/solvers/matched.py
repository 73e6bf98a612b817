"""Few-step samplers with noise whose law is fitted to data.

With noise there is no path to follow, only a law to reach. The K steps

    x_s = a x_t + (alpha_s - a alpha_t) x0_hat(x_t, u) + c z,    c = kappa sigma_s, a = sqrt(sigma_s^2 - c^2)/sigma_t exp(w)     (1)

are DDIM's with eta in kappa (0 <= kappa <= 1), w = 0 and u = t. Free are, per step, kappa, w, and the levels of t and u; a constant
prediction keeps its exact mean whatever they are, and with w = 0 its exact variance. They are fitted, by the gradient through the whole
sampler with its noise held fixed, to a small squared maximum mean discrepancy between samples x and data y,

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)                                                  (2)

with the cubic kernel k = (x . y/d + 1)^3 of the kernel inception distance, which sees moments up to the third only, or the energy kernel
-|x - y|/sqrt(d), which sees every difference of laws (Watson et al. 2022, DDSS, arXiv 2202.05830, fit a larger family to the former).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.noise import Noise, make_noise
from sde_diffusion.sdes.base import check_count, check_positive
from sde_diffusion.solvers.first_order import DDIM
from sde_diffusion.solvers.grids import Grid, vp_power
from sde_diffusion.solvers.sampling import sample
from sde_diffusion.solvers.tableau import Tableau
from sde_diffusion.solvers.unrolled import check_continuous, predict, time

KERNELS = ("polynomial", "energy")
_RATE = 2e-2  # of Adam, in the logarithms of levels and logits of kappa
_KAPPA = 1e-3  # kappa stays this far from 0 and 1, where its logit ends
_REPEATS = 4  # sets of samples that decide between the fitted table and the base


@dataclasses.dataclass(frozen=True, eq=False)
class Matched:
    """What `match` found; `table` is for `sample`, and `table.save` writes it.

    Args:
        table: the fitted table, or the base's where fitting did not beat it.
        base_mmd: (2) of the base on held-out data and noise.
        mmd: of the fitted table.
        improved: whether that is smaller.
    """

    table: Tableau
    base_mmd: float
    mmd: float
    improved: bool


def mmd(x: Tensor, y: Tensor, *, kernel: str = "polynomial") -> Tensor:
    """The unbiased estimate of (2) from samples (n, d) and (m, d), n, m >= 2.

    Raises:
        ValueError: for another kernel.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be {' or '.join(map(repr, KERNELS))}, got {kernel!r}")
    d = x.shape[1]

    def k(a: Tensor, b: Tensor) -> Tensor:
        if kernel == "polynomial":
            return (a @ b.T / d + 1) ** 3
        return -torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist") / math.sqrt(d)

    def within(a: Tensor) -> Tensor:
        values = k(a, a)
        return (values.sum() - values.diagonal().sum()) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * k(x, y).mean()


def match(
    denoiser: Denoiser,
    nfe: int,
    data: Tensor,
    *,
    eta: float = 1.0,
    grid: Grid = vp_power,
    kernel: str = "energy",
    features: Callable[[Tensor], Tensor] | None = None,
    batch: int = 256,
    iterations: int = 200,
    noise: Noise | None = None,
    generator: torch.Generator | None = None,
    cond: Any = None,
) -> Matched:
    """Fits (1) with `nfe` network calls to data, from DDIM(eta) on a grid.

    Args:
        denoiser: the model, on a continuous process.
        nfe: network calls, at least 2.
        data: (n, *d); every fourth is held out.
        eta: noise of the base, > 0 to 1.
        grid: of the base.
        kernel: "polynomial" or "energy".
        features: (b, *d) -> (b, k), differentiable; by default the data themselves.
        batch: samples per iteration, at least 2.
        iterations: of Adam.
        noise: the source of all random numbers; `generator` may be given instead.
        cond: condition handed to the denoiser with every batch.

    Raises:
        ValueError: for a chain, eta out of range, or too few data.
    """
    check_count(nfe=nfe, batch=batch, iterations=iterations)
    check_positive(eta=eta)
    sde = denoiser.sde
    check_continuous(sde, "match needs")
    if eta > 1:
        raise ValueError(f"eta must be at most 1, got {eta}; what is larger overshoots sigma_s in (1)")
    if nfe < 2 or data.ndim < 2 or len(data) < 16:
        raise ValueError(f"match needs nfe >= 2 and at least 16 data of shape (n, *d), got nfe={nfe} and {tuple(data.shape)}")
    if noise is None and generator is None:
        generator = torch.Generator().manual_seed(0)
    draw, like = make_noise(noise, generator=generator), denoiser.like
    data = data.to(like)
    held_out = torch.arange(len(data)) % 4 == 3
    known, fresh = data[~held_out], data[held_out]
    look = features or (lambda x: x.flatten(1))
    steps = _Steps(denoiser, grid(sde, nfe), eta)
    optimizer = torch.optim.Adam([steps.v], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for i in range(iterations):
        chosen = torch.argsort(draw(known.new_empty(len(known))))[:batch]
        x = steps.run(sde.prior_sample((batch, *data.shape[1:]), draw, device=like.device, dtype=like.dtype), draw, cond)
        loss = mmd(look(x), look(known[chosen]), kernel=kernel)
        if not loss.isfinite():
            raise ArithmeticError(f"the discrepancy is {loss.item()} in iteration {i}; use the kernel 'energy', or fewer features")
        (steps.v.grad,) = torch.autograd.grad(loss, steps.v)
        optimizer.step()
        schedule.step()
    base, table = DDIM(eta).tableau(sde, grid(sde, nfe)), steps.table()
    values = [0.0, 0.0]
    for _ in range(_REPEATS):
        x = sde.prior_sample((len(fresh), *data.shape[1:]), draw, device=like.device, dtype=like.dtype)
        seed = int(draw(x.new_empty(1)).abs().item() * 2**30)  # both tables see the same noise
        for which, candidate in enumerate((base, table)):
            reached = sample(denoiser, candidate, x=x, generator=torch.Generator().manual_seed(seed), cond=cond)
            values[which] += float(mmd(look(reached), look(fresh), kernel=kernel)) / _REPEATS
    improved = values[1] < values[0]
    return Matched(table if improved else base, values[0], values[1] if improved else values[0], improved)


class _Steps:
    """(1): one vector of gaps of the levels of t and of u, kappas and w; float64 on the CPU."""

    def __init__(self, denoiser: Denoiser, times: Tensor, eta: float) -> None:
        self.denoiser, self.sde, self.n = denoiser, denoiser.sde, len(times) - 1
        sde, (t, s) = self.sde, (times[:-1], times[1:])
        levels = -sde.log_snr(times)
        self.high, self.low = float(levels[0]), float(levels[-1])
        kappa = eta * sde.transition(s, t).variance.sqrt() / sde.sigma(t)
        gaps = (levels[:-1] - levels[1:]).log()
        zeros = torch.zeros(self.n, dtype=torch.float64)
        self.v = torch.cat([gaps, zeros, kappa.clamp(_KAPPA, 1 - _KAPPA).logit(), zeros]).requires_grad_()

    def numbers(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """log rho of the n + 1 states and of the n calls, and a, the weight of x0_hat, c per step; alpha of the states."""
        gaps, shift, kappa, w = self.v.split(self.n)
        falls = torch.cat([gaps.new_zeros(1), gaps.softmax(0).cumsum(0)])
        levels = self.high - (self.high - self.low) * falls
        asked = (levels[:-1] + shift).clamp(self.low, self.high)
        slope = [time(self.sde, level) for level in levels.unbind()]
        alpha, sigma = self.sde.alpha(torch.stack(slope)), self.sde.sigma(torch.stack(slope))
        kappa = kappa.sigmoid()
        a = sigma[1:] / sigma[:-1] * (1 - kappa**2).sqrt() * w.exp()
        return levels, asked, a, alpha[1:] - a * alpha[:-1], kappa * sigma[1:], alpha

    def run(self, x: Tensor, draw: Noise, cond: Any) -> Tensor:
        _, asked, a, b, c, alpha = self.numbers()
        for k in range(self.n):
            z = x / alpha[k].to(x)
            x0_hat = checkpoint(predict, self.denoiser, z, asked[k], cond, use_reentrant=False, preserve_rng_state=False)
            x = a[k].to(x) * x + b[k].to(x) * x0_hat + c[k].to(x) * draw(x)
        return x

    @torch.no_grad()
    def table(self) -> Tableau:
        """The state is rescaled to alpha of the time of the call, which is another than its own."""
        levels, asked, a, b, c, alpha = self.numbers()
        times = self.sde.t_of_log_snr(-levels).clamp(self.sde.t_min, self.sde.t_max)
        t = self.sde.t_of_log_snr(-asked).clamp(self.sde.t_min, self.sde.t_max)
        ratio = self.sde.alpha(t) / alpha[:-1]  # of the scale in which the state waits for its call, to its own
        n = self.n
        leave = torch.cat([ratio[1:], torch.ones(1, dtype=torch.float64)])
        x, p, noise = a * leave / ratio, (b * leave)[:, None], c * leave
        nan = torch.full((1,), math.nan, dtype=torch.float64)
        zero = torch.zeros(1, dtype=torch.float64)
        asks = torch.cat([zero, torch.ones(n, dtype=torch.float64)])
        return Tableau(
            t=torch.cat([times[:1], t]),
            x=torch.cat([ratio[:1], x]),
            p=torch.cat([zero[:, None], p]),
            noise=torch.cat([zero, noise]),
            ends=torch.cat([nan, t[1:], times[-1:]]),
            p_x0=asks,
        )
