"""The divergence of the probability flow, integrated along its paths.

In the variables of solvers/clock.py, dw/dp = a w + b x0_hat(n w), the density of w changes along a path by the integral of

    div = a d + b n tr J,    J = dx0_hat/dx                                                      (1)

of which the linear part is known. Here are the sum over the stages of the steps, its variance where the terms are estimates, and the exact
trace; hutchinson.py has the estimate.
"""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.solvers.adaptive import Along, Pair
from sde_diffusion.solvers.clock import Slopes

_UNIT = 10.0  # nats of a step's error per tolerance and sqrt(d): 2 % more calls, and of 1000 paths none that is wrong by .01


class Divergence(Along):
    """The integral of (1) along the path of each sample.

    Args:
        beta: weights of the stages of a step, the last of which is the next step's first.
        x: the batch (b, *d).

    Attributes:
        total: the integral, (b,) float64.
        variance: of its estimate, (b,) float64.
    """

    def __init__(self, beta: tuple[float, ...], x: Tensor) -> None:
        self.beta = beta
        self.samples, self.dimension = len(x), x[0].numel()
        self.index = torch.arange(len(x), device=x.device)
        self.total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        self.variance = self.total
        self._last_weight = self.total  # of the latest step's last stage
        self._at: list[tuple[Tensor, Tensor]] = [(self.total, self.total)] * len(beta)

    @abc.abstractmethod
    def evaluate(self, slopes: Slopes, row: int, w: Tensor, cond: Any, out: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """dw/dp, its divergence (b,) float64 and the variance of that (b,)."""

    def slope(self, stage: int, slopes: Slopes, row: int, w: Tensor, cond: Any, out: Tensor | None) -> Tensor:
        if self.beta[stage] == 0 and stage + 1 < len(self.beta):
            return slopes(row, w, cond, out)
        slope, value, variance = self.evaluate(slopes, row, w, cond, out)
        self._at[stage] = value, variance
        return slope

    def advance(self, step: Tensor, accept: Tensor) -> None:
        h, before = step * accept, self._last_weight[self.index]
        gain, variance = torch.zeros_like(h), ((before + h * self.beta[0]) ** 2 - before**2) * self._at[0][1]
        for stage, (weight, (value, error)) in enumerate(zip(self.beta, self._at, strict=True)):
            if weight:
                gain = gain + weight * value
                variance = variance + (h * weight) ** 2 * error if stage else variance
        self.total = self.total.index_add(0, self.index, h * gain)
        self.variance = self.variance.index_add(0, self.index, variance)
        self._last_weight = self._last_weight.index_copy(0, self.index, torch.where(accept, h * self.beta[-1], before))
        (value, variance), (old, old_variance) = self._at[-1], self._at[0]
        self._at[0] = torch.where(accept, value, old), torch.where(accept, variance, old_variance)

    def keep(self, index: Tensor) -> None:
        self.index = self.index[index]
        value, variance = self._at[0]
        self._at[0] = value[index], variance[index]


class ExactDivergence(Divergence):
    """(1) by the denoiser's own Jacobian trace.

    Args:
        pair: the method, whose own weights are used.
        x: the batch.
        denoiser: whose `jacobian_trace` is used.
    """

    def __init__(self, pair: Pair, x: Tensor, denoiser: Denoiser) -> None:
        super().__init__((*pair.a[-1], 0.0), x)
        self.errors = pair.e
        self.denoiser = denoiser

    def error(self, step: Tensor, rtol: float, atol: float) -> Tensor:
        total = sum((e * value for e, (value, _) in zip(self.errors, self._at, strict=True) if e), torch.zeros_like(step))
        return (step * total).detach().abs() / (_UNIT * self.dimension**0.5 * (rtol + atol))

    def evaluate(self, slopes: Slopes, row: int, w: Tensor, cond: Any, out: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        levels, n, a, b = slopes.at.levels, *(v[row].to(w) for v in slopes.at[1:])
        t = levels.time()[row].flatten()
        x0_hat, trace = self.denoiser.jacobian_trace(w * n, t, cond)
        value = (slopes.at.a[row] * self.dimension).flatten() + (slopes.at.b[row] * slopes.at.n[row]).flatten() * trace
        return torch.mul(w, a, out=out).addcmul_(x0_hat, b), value.double(), torch.zeros_like(trace)
