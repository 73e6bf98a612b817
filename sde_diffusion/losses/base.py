"""What a loss is, to whatever trains by it: anything that fits these two protocols, `DenoisingScoreMatching` first of all.

A loss without parameters is a frozen dataclass; one that has some, or that remembers, is an nn.Module besides. Both have a repr that
builds them back. Parameters are trained with the network's, and buffers kept in checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.noise import Noise
from sde_diffusion.shapes import Time


@runtime_checkable
class Loss(Protocol):
    """A loss of each sample, and the law of the times at which it is taken."""

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
        """The loss (b,) of data x0 (b, *d) at times t, drawn if None, with noise eps (b, *d), drawn if None."""

    def draw_times(self, denoiser: Denoiser, x0: Tensor, noise: Noise) -> Tensor:
        """One time per sample, float64 (b,)."""


@runtime_checkable
class Observer(Protocol):
    """A loss that learns from the losses it sees, such as by a time law that follows them."""

    def observe(self, t: Tensor, losses: Tensor) -> None:
        """Takes note of the losses (b,) at times (b,) of a whole step, the same on all processes and without gradients."""
