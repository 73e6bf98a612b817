"""Times that follow the losses: where they are large and vary, draw more often.

Cut the times into n bins, of equal probability 1/n under a law of density b(t). If bin k is drawn with probability p_k instead, and its
times as before, the density is

    q(t) = n p_k b(t),    t in bin k,                                                            (1)

and the loss l = w L/q has the same mean for every p. With m = w L/b = n p_k l its second moment is

    E l^2 = 1/n^2 sum_k E_k[m^2]/p_k,    least for p_k ~ sqrt(E_k m^2)                           (2)

(Cauchy-Schwarz). E_k m^2 is estimated from the last few m seen in the bin, and a small part of the draws stays uniform, so that no bin is
given up (Nichol & Dhariwal 2021, arXiv 2102.09672, section 3.3, for the nodes of a chain).

Ten losses tell E_k m^2 only where no few samples carry it. With the exact denoiser of the mixture of N(-1, 0.1^2) and N(1, 0.1^2) on 25
nodes the variance is 88 for uniform draws and 23 for the best, but 60 to 390 after ten, 23 to 39 after 300 losses a node: in one dimension
what counts is the rare sample that changes modes. Of the mean over 64 such coordinates it falls from 14.8 to 0.5 with ten.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sde_diffusion.losses.times import ChainTimes, LikelihoodTimes, TimeLaw, log_snr_range
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_count

BINS = 100  # of a process that is not a chain: 0.24 of log(alpha^2/sigma^2) each for VPSDE()


class LossSecondMomentTimes(nn.Module, TimeLaw):
    """The law (1, 2) on the nodes of a chain, or on bins of equal width in log-SNR; uniform on them until each has its history.

    For `DenoisingScoreMatching(..., times=..., unbiased=True)`. After each draw `observe` wants the losses that came of it, before the next
    draw: it multiplies them by the n p_k that they were divided by. What is remembered are buffers, and saved with state_dict().

    Args:
        sde: the denoiser's process.
        bins: n; the number of nodes of a chain, for others 100 if None.
        t_min: the smallest time that is drawn, of a process that is not a chain; in [0, 1), where there is noise.
        history: number of losses remembered for each bin; 10 in the paper.
        uniform: the part of the draws that stays uniform, in (0, 1]; 0.001 in the paper.

    Raises:
        ValueError: for numbers that are none, for a process that is learned, and when used with another process.
    """

    learns = True
    losses: Tensor
    counts: Tensor

    def __init__(self, sde: AffineSDE, bins: int | None = None, *, t_min: float = 1e-5, history: int = 10, uniform: float = 0.001) -> None:
        super().__init__()
        bins = (sde.length or BINS) if bins is None else bins
        check_count(bins=bins, history=history)
        if isinstance(sde, nn.Module):
            raise ValueError(f"bins of {sde} would move as it learns, away from the losses seen in them; use LikelihoodTimes")
        if sde.length not in {None, bins}:
            raise ValueError(f"the bins of a chain are its {sde.length} nodes, got bins={bins}; leave bins out")
        if not 0 < uniform <= 1:
            raise ValueError(f"uniform must lie in (0, 1], got {uniform}")
        self.sde, self.bins, self.t_min, self.history, self.uniform = sde, int(bins), float(t_min), int(history), float(uniform)
        self.base: TimeLaw = LikelihoodTimes(self.t_min) if sde.length is None else ChainTimes()
        if sde.length is None:
            log_snr_range(sde, self.t_min)
        self.register_buffer("losses", torch.zeros(self.bins, self.history, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(self.bins, dtype=torch.int64))

    def __repr__(self) -> str:
        options = f"bins={self.bins}, t_min={self.t_min}, history={self.history}, uniform={self.uniform}"
        return f"{type(self).__name__}({self.sde!r}, {options})"

    def probabilities(self) -> Tensor:
        """p_k (n,), float64."""
        n = self.bins
        root = self.losses.square().mean(1).sqrt().clamp(min=torch.finfo(self.losses.dtype).tiny)  # not 0/0 where no bin has a loss
        learned = (1 - self.uniform) * root / root.sum() + self.uniform / n
        return torch.where(self.counts.min() >= self.history, learned, 1 / n)

    def quantile(self, sde: AffineSDE, u: Tensor) -> Tensor:
        self._check(sde)
        p = self.probabilities().to(u)
        ends = p.cumsum(0)
        k = torch.searchsorted(ends, u.contiguous(), right=True).clamp(max=self.bins - 1)
        inside = ((u - ends[k] + p[k]) / p[k]).clamp(0, 1) if sde.length is None else torch.full_like(u, 0.5)
        return self.base.quantile(sde, (k + inside) / self.bins)

    def density(self, sde: AffineSDE, t: Tensor) -> Tensor:
        self._check(sde)
        return self.bins * self.probabilities().to(t.device)[self._bin(t)] * self.base.density(sde, t)

    @torch.no_grad()
    def observe(self, t: Tensor, losses: Tensor) -> None:
        """Remembers losses (b,) as the loss returned them, divided by the density, at the times t (b,) drawn last.

        Losses that are not finite are left out, and where a bin has more of them than its history, so are its first.

        Raises:
            ValueError: unless both have shape (b,).
        """
        if t.ndim != 1 or t.shape != losses.shape:
            raise ValueError(f"observe needs as many losses as times, (b,) each, got {tuple(losses.shape)} and {tuple(t.shape)}")
        t, losses = t.to(self.losses.device), losses.to(self.losses)
        finite = losses.isfinite()
        k, order = self._bin(t[finite]).sort(stable=True)
        m = losses[finite][order] * self.bins * self.probabilities()[k]
        first = torch.searchsorted(k, k)
        rank, size = torch.arange(len(k), device=k.device) - first, torch.searchsorted(k, k, right=True) - first
        last = rank >= size - self.history  # so that no place is written twice
        self.losses[k[last], (self.counts[k] + rank)[last] % self.history] = m[last]
        self.counts += torch.bincount(k, minlength=self.bins)

    def _bin(self, t: Tensor) -> Tensor:
        if self.sde.length is None:
            first, last = log_snr_range(self.sde, self.t_min)
            k = ((first - self.sde.log_snr(t)) / (first - last) * self.bins).floor()
        else:
            k = (t * self.bins).round() - 1
        return k.clamp(0, self.bins - 1).long()

    def _check(self, sde: AffineSDE) -> None:
        if sde != self.sde:
            raise ValueError(f"LossSecondMomentTimes must have the denoiser's process, got {self.sde!r} and {sde!r}; use one of the latter")
