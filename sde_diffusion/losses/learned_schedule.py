"""The variational bound in continuous time, for a network and for the schedule under it (Kingma et al. 2021, arXiv 2107.00630).

The bound on -log p(x_0) in nats per dimension, of D, is reconstruction + prior + diffusion:

    diffusion       E_t,eps (t_max - t_min) 1/2 gamma'(t) |eps - eps_hat|^2 / D,    gamma = log(sigma^2/alpha^2), gamma' = g^2/sigma^2  (1)
    prior           KL(N(alpha x_0, sigma^2 I) | N(0, s^2 I)) / D    at t_max, with the prior's standard deviation s                    (2)
    reconstruction  -E log N(x_0; z, r^2) = log r + 1/2 log(2 pi e),    z = x_0 + r eps,    r = sigma/alpha at t_min                    (3)
                    or, for data on a lattice of width w,  -E log(Phi(w/2r + eps) - Phi(eps - w/2r)),  the chance of x_0's own bin      (4)

(3) and (4) are one-dimensional expectations: (4) is integrated, so that all noise is that of (1). A learned schedule's ends descend on the
bound, its interior on the square of (1), which has the variance of (1) for its only moving part: see sdes/learned.py.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.losses.base import DrawnLoss, check_denoiser
from sde_diffusion.losses.times import uniforms
from sde_diffusion.noise import Noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_positive
from sde_diffusion.sdes.learned import LearnedVPSDE
from sde_diffusion.shapes import mean_event

_WIDEST, _NODES = 8.0, 161  # of the trapezoidal rule in eps, which is off by less than 1e-12 there
_SMALLEST = 1e-300  # of probabilities whose logarithm is taken


@dataclasses.dataclass(frozen=True)
class VDMLoss(DrawnLoss[Denoiser]):
    """The bound of each sample in nats per dimension, by one time and one draw of noise; times are spread evenly over a batch.

    Args:
        width: of the lattice that the data lie on, such as 2/255 for bytes in [-1, 1] (the probability of a bin is bounded), or None for
            data with a density.

    Raises:
        ValueError: for a width that is not positive; when called, for a chain, whose bound is not continuous in time.
    """

    width: float | None = None

    def __post_init__(self) -> None:
        if self.width is not None:
            object.__setattr__(self, "width", float(self.width))
            check_positive(width=self.width)

    def check(self, denoiser: Denoiser) -> None:
        check_denoiser(self, denoiser)
        if (n := denoiser.sde.length) is not None:
            raise ValueError(f"VDMLoss is the bound in continuous time, and the process is a chain of {n} steps; use the SDE itself")

    def draw_times(self, denoiser: Denoiser, x0: Tensor, noise: Noise) -> Tensor:
        """u + i/b mod 1 for a uniform u, over [t_min, t_max]: float64 (b,)."""
        low, high = self.times_of(denoiser.sde)
        return low + (high - low) * uniforms(x0, noise, stratified=True)

    def loss_at(self, denoiser: Denoiser, x0: Tensor, t: Tensor, eps: Tensor | None, cond: Any, draw: Noise) -> Tensor:
        sde, t = denoiser.sde, t.expand(len(x0))
        eps = draw(x0) if eps is None else eps
        if not isinstance(sde, LearnedVPSDE):
            diffusion = self._diffusion(denoiser, x0, t, eps, cond)
        else:
            with sde.weigh_interior() as weights:
                diffusion = self._diffusion(denoiser, x0, t, eps, cond)
            weights.value = 2 * diffusion.detach()
        return diffusion + self.reconstruction(sde, x0) + self.prior(sde, x0)

    def _diffusion(self, denoiser: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, cond: Any) -> Tensor:
        """(1) at times t."""
        sde = denoiser.sde
        error = mean_event((denoiser.eps(sde.perturb(x0, t, eps), t, cond) - eps) ** 2)
        return (0.5 * (sde.t_max - sde.t_min) * (sde.g(t) / sde.sigma(t)) ** 2).to(x0) * error

    def prior(self, sde: AffineSDE, x0: Tensor) -> Tensor:
        """(2) for each sample."""
        end = torch.tensor(sde.t_max, dtype=torch.float64, device=x0.device)
        ratio = (sde.sigma(end) / sde.prior_std) ** 2
        return 0.5 * ((sde.alpha(end) / sde.prior_std) ** 2 * mean_event(x0.double() ** 2) + ratio - 1 - ratio.log()).to(x0)

    def reconstruction(self, sde: AffineSDE, x0: Tensor) -> Tensor:
        """(3) or (4), which is the same for every x0, as ()."""
        start = torch.tensor(sde.t_min, dtype=torch.float64, device=x0.device)
        log_r = -sde.log_snr(start)
        if self.width is None:
            return (log_r + 0.5 * math.log(2 * math.pi * math.e)).to(x0)
        eps = torch.linspace(-_WIDEST, _WIDEST, _NODES, dtype=torch.float64, device=x0.device)
        density = torch.exp(-0.5 * eps**2)
        half = 0.5 * self.width * torch.exp(-log_r)
        inside = torch.special.ndtr(half - eps.abs()) - torch.special.ndtr(-half - eps.abs())  # in the lower tail, where digits are
        return -(density / density.sum() @ inside.clamp(min=_SMALLEST).log()).to(x0)
