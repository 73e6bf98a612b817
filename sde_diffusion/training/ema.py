"""An exponential moving average of a network's weights, the ones to sample with (Ho et al. 2020; Song and Ermon 2020).

    w_ema <- d w_ema + (1 - d) w,      d = min(decay, (1 + n)/(10 + n)) at update n = 0, 1, ...                             (1)

The warm-up in (1) lets the average forget the random initial weights; it is that of TensorFlow's ExponentialMovingAverage.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class EMA:
    """Keeps `network`, a copy whose weights follow (1).

    Args:
        source: the network that is being trained.
        decay: in [0, 1); 0.999 averages about the last thousand updates.

    Raises:
        ValueError: for a decay outside [0, 1).
    """

    def __init__(self, source: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of an average must lie in [0, 1), got {decay}; use 0.999")
        self.decay = decay
        self.network = copy.deepcopy(source).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, source: nn.Module, n: int) -> None:
        """Update number n (from 0): averages parameters and float buffers, copies what cannot be averaged (counters)."""
        averaged, followed = [], []
        for mine, theirs in zip(_tensors(self.network), _tensors(source), strict=True):
            if mine.is_floating_point():
                averaged.append(mine)
                followed.append(theirs)
            else:
                mine.copy_(theirs)
        torch._foreach_lerp_(averaged, followed, 1 - min(self.decay, (1 + n) / (10 + n)))


def _tensors(network: nn.Module) -> tuple[Tensor, ...]:
    return (*network.parameters(), *network.buffers())
