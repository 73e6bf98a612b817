"""A chain read backwards, as a model of the data: the steps of losses/variational.py, eqs 1 and 2, on a grid of one's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.likelihood.flow import check_data
from sde_diffusion.losses.decoders import Decoder, GaussianDecoder
from sde_diffusion.losses.variational import Variance, belief, reconstruction
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.solvers.grids import check_grid
from sde_diffusion.solvers.variance import VARIANCES, ReconstructionError, check_variance, reverse_variance


@dataclasses.dataclass(frozen=True)
class ChainModel:
    """The model, and the data (b, *d) that it is to explain.

    Args:
        denoiser: the belief.
        x: the data.
        times: the nodes, increasing, all with noise.
        decoded_by_step: whether the decoder is a step to a time without noise.
        variance: c^2 of a step, as the losses know it.
        decoder: what p(x_0 | x_first) is.
        cond: of the data.
    """

    denoiser: Denoiser
    x: Tensor
    times: Tensor
    decoded_by_step: bool
    variance: Variance
    decoder: Decoder
    cond: Any

    @staticmethod
    @torch.no_grad()
    def of(
        denoiser: Denoiser,
        x: Tensor,
        grid: Tensor | Sequence[float] | None,
        variance: Variance,
        errors: ReconstructionError | None,
        decoder: Decoder | None,
        cond: Any,
    ) -> ChainModel:
        """The model by what `chain_bound` takes.

        Raises:
            ValueError: as `chain_bound`.
        """
        check_data(x)
        sde, decoder = denoiser.sde, decoder or GaussianDecoder()
        decoder.check(x)
        if grid is None:
            if sde.length is None:
                raise ValueError(f"{sde} is no chain and has no steps of its own; pass grid=uniform(sde, n), or use continuous_bound")
            grid = torch.arange(sde.length, -1, -1, dtype=torch.float64) / sde.length
        times = torch.as_tensor(grid, dtype=torch.float64, device="cpu")
        check_grid(times)
        if float(times[0]) != sde.t_max:
            raise ValueError(f"the grid must begin at t_max={sde.t_max:g}, where the prior is, got {float(times[0]):g}")
        noisy = float(sde.sigma(times[-1])) > 0
        if len(times) < 3 - noisy:
            raise ValueError(f"the grid must have a step between two times with noise, got {times.tolist()}")
        times = (times if noisy else times[:-1]).flip(0).to(x.device)
        return ChainModel(denoiser, x, times, not noisy, _variance(variance, errors), decoder, cond)

    def decode(self, y: Tensor, t: Tensor) -> Tensor:
        """-log p(x_0 | y), (b,), of states y (b, *d) at the first time, t (b,)."""
        x0_hat, v = (y, None) if self.decoder.around_state else belief(self.denoiser, y, t, self.variance, self.cond)
        after = self.times[1].expand(len(t)) if self.decoded_by_step else None
        return reconstruction(self.denoiser.sde, self.x, y, x0_hat, t, after, decoder=self.decoder, variance=self.variance, v=v)


def _variance(variance: Variance, errors: ReconstructionError | None) -> Variance:
    """The variance as the losses know it, where "analytic" is a function."""
    if callable(variance):
        return variance
    check_variance(variance, errors, (*VARIANCES, "learned"))
    if variance != "analytic":
        if errors is not None:
            raise ValueError(f"errors are for variance='analytic', got them with {variance!r}; leave them out?")
        return variance

    def analytic(sde: AffineSDE, t: Tensor, s: Tensor) -> Tensor:
        return reverse_variance(sde, t.cpu(), s.cpu(), "analytic", errors).to(t.device)

    return analytic
