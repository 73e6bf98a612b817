"""Shapes: data `x` is (b, *d), times are () or (b,). This is the only place where one is broadcast over the other."""

from __future__ import annotations

import torch
from torch import Tensor

Time = float | Tensor
"""A time in [0, 1], or a tensor of them of shape () or (b,)."""


def as_time(t: Time, like: Tensor | None = None) -> Tensor:
    """Makes a time a tensor; a Python float becomes float64 on the CPU, or on the device of `like`."""
    if isinstance(t, Tensor):
        return t
    return torch.tensor(t, dtype=torch.float64, device=None if like is None else like.device)


def expand(a: Tensor, x: Tensor) -> Tensor:
    """Views `a` of shape () or (b,) so that it multiplies data `x` of shape (b, *d), in the dtype of `x`."""
    a = a.to(x)
    return a if a.ndim == 0 else a.reshape(a.shape + (1,) * (x.ndim - 1))


def sum_event(x: Tensor) -> Tensor:
    """Sums over all dimensions but the first: (b, *d) -> (b,)."""
    return x.flatten(1).sum(1)


def mean_event(x: Tensor) -> Tensor:
    """Averages over all dimensions but the first: (b, *d) -> (b,)."""
    return x.flatten(1).mean(1)
