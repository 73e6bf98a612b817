"""The reverse-time process as other people's integrators want it.

    dx = (drift - (1 + eta^2)/2 g^2 score) dt + eta g dw,    t from 1 to 0                      (1)

`torchsde` integrates forward only, so it sees the time tau = 1 - t; `scipy` sees t itself. Anderson 1982; Song et al. 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sde_diffusion.sdes.base import SDE
from sde_diffusion.shapes import Time, as_time, expand


class Score(Protocol):
    """What knows the score: nabla log p_t(x), shape of x."""

    def score(self, x: Tensor, t: Time, cond: Any = None) -> Tensor: ...


class ReverseSDE(nn.Module):
    """The reverse-time process (1); made by `sde.reverse(denoiser, eta)`.

    As a `torchsde` SDE it has `f`, `g`, `noise_type`, `sde_type` in the time tau = 1 - t, for states (b, d); as an ODE right-hand side
    (eta = 0) it is called as `(t, x)` with tensors (b, *d) or with NumPy arrays of any shape, flat ones included.
    """

    noise_type = "diagonal"
    sde_type = "ito"

    def __init__(self, sde: SDE, denoiser: Score, eta: float, *, shape: Sequence[int] | None, cond: object | None) -> None:
        super().__init__()
        if not eta >= 0:
            raise ValueError(f"eta must be 0 (ODE), 1 (SDE), between or larger, got {eta}")
        self.sde, self.denoiser, self.eta = sde, denoiser, eta
        self.shape = None if shape is None else tuple(shape)
        self.cond = cond

    def drift(self, x: Tensor, t: Time) -> Tensor:
        """The drift of (1) in the direction of growing t, at x (b, *d)."""
        t = as_time(t, x)
        weight = 0.5 * (1 + self.eta**2) * expand(self.sde.diffusion(t), x) ** 2
        return self.sde.drift(x, t) - weight * self.denoiser.score(x, t, self.cond)

    def f(self, tau: Time, y: Tensor) -> Tensor:
        """torchsde: the drift at time tau = 1 - t."""
        x = y if self.shape is None else y.reshape(-1, *self.shape[1:])
        return -self.drift(x, 1 - as_time(tau, x)).reshape(y.shape)

    def g(self, tau: Time, y: Tensor) -> Tensor:
        """torchsde: the diagonal diffusion at time tau = 1 - t."""
        return (self.eta * expand(self.sde.diffusion(1 - as_time(tau, y)), y)).expand_as(y)

    def forward(self, t: float, y: Any) -> Any:
        """The right-hand side of the ODE at time t, array in, array out or tensor in, tensor out.

        Raises:
            ValueError: if eta is not 0, for then there is no ODE, or if y is flat and `shape` was not given.
        """
        if self.eta != 0:
            raise ValueError(f"an ODE right-hand side needs eta=0, got eta={self.eta}; use sde.reverse(denoiser, eta=0)")
        if y.ndim < 2 and self.shape is None:
            raise ValueError(f"a flat state of shape {tuple(y.shape)} needs the batch's: sde.reverse(denoiser, eta=0, shape=(b, *d))")
        if isinstance(y, Tensor):
            return self.drift(y if self.shape is None else y.reshape(self.shape), t).reshape(y.shape)
        device = next((p.device for p in (*self.parameters(), *self.buffers())), torch.device("cpu"))
        x = torch.from_numpy(np.ascontiguousarray(y)).to(device)
        return self.drift(x if self.shape is None else x.reshape(self.shape), t).reshape(y.shape).detach().cpu().numpy()
