"""Shapes: data `x` is (b, *d), times are () or (b,). This is the only place where one is broadcast over the other."""

from __future__ import annotations

import torch
from torch import Tensor

Time = float | Tensor
"""A time in [0, 1], or a tensor of them of shape () or (b,)."""


def as_time(t: Time, like: Tensor | None = None) -> Tensor:
    """Makes a time a tensor; a Python float becomes float64 on the CPU, or on the device of `like`."""
    if isinstance(t, Tensor):
        return t if t.is_floating_point() else t.double()
    return torch.tensor(t, dtype=torch.float64, device=None if like is None else like.device)


def expand(a: Tensor, x: Tensor) -> Tensor:
    """Views `a` of shape () or (b,) so that it multiplies data `x` of shape (b, *d), in the dtype of `x`.

    Raises:
        ValueError: if `a` has another shape: (b, 1) against (b, d) would silently make (b, b, d).
    """
    check_time_shape(a, x)
    a = a.to(x)
    return a if a.ndim == 0 else a.reshape(a.shape + (1,) * (x.ndim - 1))


def check_time_shape(t: Tensor, x: Tensor) -> None:
    """Raises ValueError unless t has shape () or (b,) for x of shape (b, *d)."""
    if t.ndim > 1 or (t.ndim == 1 and len(t) not in (1, len(x))):
        raise ValueError(f"times must have shape () or ({len(x)},) for states of shape {tuple(x.shape)}, got {tuple(t.shape)}")


def sum_event(x: Tensor) -> Tensor:
    """Sums over all dimensions but the first: (b, *d) -> (b,)."""
    return x.flatten(1).sum(1)


def mean_event(x: Tensor) -> Tensor:
    """Averages over all dimensions but the first: (b, *d) -> (b,)."""
    return x.flatten(1).mean(1)
