"""Any slope dx/dt by `scipy.integrate.solve_ivp`, as our `ScipyODE` runs the probability flow: state in float64, slope in x's dtype."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from sde_diffusion.solvers.external import ScipyODE

Slope = Callable[[Tensor, Tensor], Tensor]
"""(x (b, *d), t (b,)) -> dx/dt, (b, *d)."""


def integrate(slope: Slope, x: Tensor, span: tuple[float, float], *, rtol: float, atol: float, method: str) -> Tensor:
    """The state at span[1] of dx/dt = slope(x, t) from x (b, *d) at span[0].

    Args:
        slope: called with states like x and times (b,).
        x: the first state.
        span: first and last time.
        rtol: relative tolerance, > 0.
        atol: absolute tolerance, > 0.
        method: one of `ScipyODE`'s.

    Raises:
        ValueError: for an unknown method or a tolerance that is not positive.
        ArithmeticError: if SciPy gives up.
    """
    grid = torch.tensor(span, dtype=torch.float64)
    (step,) = ScipyODE(method, rtol, atol).solve(cast(Any, _Flow(slope, x)), x, grid, torch.randn_like)
    return step.x


@dataclasses.dataclass(frozen=True)
class _Flow:
    """All that `ScipyODE` asks of a denoiser and its process."""

    slope: Slope
    like: Tensor

    @property
    def sde(self) -> _Flow:
        return self

    def reverse(self, denoiser: Any, eta: float, *, shape: Any, cond: Any) -> Callable[[float, Any], Any]:
        return self._derivative

    def _derivative(self, t: float, y: Any) -> Any:
        x = torch.from_numpy(y).to(self.like).reshape(self.like.shape)
        return self.slope(x, x.new_full((len(x),), t)).double().cpu().numpy().ravel()
