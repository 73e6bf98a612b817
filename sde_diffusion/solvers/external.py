"""Other people's integrators as solvers.

The reverse process dx = (f x - (1 + eta^2)/2 g^2 score) dt + eta g dw goes to `torchsde` (Li et al. 2020, arXiv 2001.01328) in the time
tau = 1 - t, and with eta = 0 to `scipy.integrate.solve_ivp` in t, as Song et al. 2021 sampled. The diffusion does not depend on the
state, so Ito's and Stratonovich's calculus agree, and methods for either are used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.expressions import plain_floats
from sde_diffusion.noise import Noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_positive
from sde_diffusion.sdes.reverse import ReverseSDE
from sde_diffusion.solvers.base import Move, Solver, Step
from sde_diffusion.solvers.first_order import check_eta
from sde_diffusion.solvers.tableau import Tableau

# Per method of torchsde: its calculus, and what it asks of the Brownian motion.
TORCHSDE = {
    "euler": ("ito", "none"),
    "milstein": ("ito", "none"),
    "srk": ("ito", "space-time"),
    "euler_heun": ("stratonovich", "none"),
    "heun": ("stratonovich", "none"),
    "midpoint": ("stratonovich", "none"),
    "reversible_heun": ("stratonovich", "none"),
}
SCIPY = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA")
_ROUNDING = 1e-9


class _Counted(torch.nn.Module):
    """A ReverseSDE whose drift is counted, and remembered: torchsde asks for the first one of a run twice."""

    noise_type = "diagonal"

    def __init__(self, reverse: ReverseSDE, sde_type: str) -> None:
        super().__init__()
        self.reverse, self.sde_type, self.nfe = reverse, sde_type, 0
        self._last: tuple[float, Tensor, Tensor] | None = None

    def f(self, tau: Tensor, y: Tensor) -> Tensor:
        if self._last is None or self._last[0] != float(tau) or self._last[1] is not y:
            self.nfe += 1
            self._last = float(tau), y, self.reverse.f(tau, y)
        return self._last[2]

    def g(self, tau: Tensor, y: Tensor) -> Tensor:
        return self.reverse.g(tau, y)


@dataclasses.dataclass(frozen=True)
class TorchSDE(Solver):
    """The reverse SDE by any method of `torchsde.sdeint`, between the times of the grid.

    The Brownian motion is torchsde's, its seed a hash of one draw of the noise source: the same source gives the same samples, but a
    sample depends on its batch.

    Args:
        method: "euler", "milstein", "srk", "euler_heun", "heun", "midpoint" or "reversible_heun".
        eta: amount of noise, 1 for the reverse SDE, between 0 (the flow) and larger.
        adaptive: whether torchsde chooses the steps, for the whole batch, by comparing a step with two halves.
        rtol: relative tolerance of `adaptive`, > 0.
        atol: absolute tolerance of `adaptive`, > 0, in units of the state.
        dt: longest step in t, or the first one of `adaptive`, > 0; None for the grid's.
        dt_min: shortest step of `adaptive` in t, > 0.

    Raises:
        ValueError: for an unknown method or a number out of range.
        ArithmeticError: while sampling, if the result is not finite.
    """

    method: str = "euler"
    eta: float = 1.0
    adaptive: bool = False
    rtol: float = 1e-3
    atol: float = 1e-3
    dt: float | None = None
    dt_min: float = 1e-6
    order: ClassVar[int] = 0  # torchsde's claim is not tested here
    default_steps: ClassVar[int] = 500
    ends_at_zero: ClassVar[bool] = False

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(rtol=self.rtol, atol=self.atol, dt_min=self.dt_min)
        check_eta(self.eta)
        if self.dt is not None:
            check_positive(dt=self.dt)
            object.__setattr__(self, "dt", float(self.dt))
        _check_method(self.method, TORCHSDE)

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        raise ValueError(f"{self} is torchsde's and has no table; EulerMaruyama has one")

    def solve(
        self, denoiser: Denoiser, x: Tensor, grid: Tensor, noise: Noise, cond: Any = None, corrector: Move | None = None
    ) -> Iterator[Step]:
        import torchsde

        sde_type, area = TORCHSDE[self.method]
        process = _Counted(denoiser.sde.reverse(denoiser, self.eta, shape=(-1, *x.shape[1:]), cond=cond), sde_type)
        tau = 1 - grid
        y = x.flatten(1)
        brownian = torchsde.BrownianInterval(
            float(tau[0]),
            float(tau[-1]),
            size=y.shape,
            dtype=y.dtype,
            device=y.device,
            entropy=_entropy(noise(x)),
            levy_area_approximation=area,
        )
        nfe = 0
        for i, (t, s) in enumerate(zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True), start=1):
            width = t - s
            # As many equal steps as dt allows, where torchsde would end with a shorter one, and by rounding with a crumb.
            dt = (1 + _ROUNDING) * (width if self.dt is None else width / math.ceil(width / self.dt * (1 - _ROUNDING)))
            options = {
                "method": self.method,
                "dt": dt,
                "adaptive": self.adaptive,
                "rtol": self.rtol,
                "atol": self.atol,
                "dt_min": self.dt_min,
            }
            with warnings.catch_warnings():
                # It doubts Euler-Maruyama with automatic steps, right only where the diffusion depends on the state.
                warnings.filterwarnings("ignore", message="Numerical solution is not guaranteed")
                y = torchsde.sdeint(process, y, tau[i - 1 : i + 1].to(y.device), bm=brownian, **options)[-1]
            _check_finite(self, y, s)
            if corrector is not None:
                state, calls = corrector(y.reshape(x.shape), s)
                y, nfe = state.flatten(1), nfe + calls
            yield Step(i, s, y.reshape(x.shape), nfe + process.nfe)


@dataclasses.dataclass(frozen=True)
class ScipyODE(Solver):
    """The probability-flow ODE in t by any method of `scipy.integrate.solve_ivp`, the whole batch at once, in float64 on the CPU.

    The steps depend on all samples of the batch, and no gradients are recorded.

    Args:
        method: "RK23", "RK45", "DOP853", "Radau", "BDF" or "LSODA"; Radau and BDF make one call per coordinate of the batch for a Jacobian.
        rtol: relative tolerance per step, > 0.
        atol: absolute tolerance per step, > 0, in units of the state.
        max_nfe: most network calls, at least 1.

    Raises:
        ValueError: for an unknown method or a number out of range.
        ArithmeticError: while sampling, if SciPy gives up or takes more than max_nfe calls.
    """

    method: str = "RK45"
    rtol: float = 1e-5
    atol: float = 1e-5
    max_nfe: int = 10_000
    order: ClassVar[int] = 0
    default_steps: ClassVar[int] = 1
    ends_at_zero: ClassVar[bool] = False

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(rtol=self.rtol, atol=self.atol, max_nfe=self.max_nfe)
        _check_method(self.method, SCIPY)

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        raise ValueError(f"{self} is SciPy's and has no table; Heun has one")

    def solve(
        self, denoiser: Denoiser, x: Tensor, grid: Tensor, noise: Noise, cond: Any = None, corrector: Move | None = None
    ) -> Iterator[Step]:
        from scipy.integrate import solve_ivp

        flow = denoiser.sde.reverse(denoiser, eta=0, shape=x.shape, cond=cond)
        first, last, nfe = float(grid[0]), float(grid[-1]), 0

        def slope(t: float, y: Any) -> Any:
            nonlocal nfe
            if nfe >= self.max_nfe:
                raise ArithmeticError(f"{self} made {nfe} network calls and has not arrived (t={t:g}); raise rtol, atol or max_nfe")
            nfe += 1
            return flow(min(max(t, min(first, last)), max(first, last)), y)

        for i, (t, s) in enumerate(zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True), start=1):
            y = x.detach().double().cpu().numpy().ravel()
            solution = solve_ivp(slope, (t, s), y, method=self.method, rtol=self.rtol, atol=self.atol)
            if not solution.success:
                raise ArithmeticError(f"{self} stopped before t={s:g}: {solution.message} Raise rtol and atol")
            x = torch.from_numpy(np.ascontiguousarray(solution.y[:, -1])).reshape(x.shape).to(x)
            _check_finite(self, x, s)
            if corrector is not None:
                x, calls = corrector(x, s)
                nfe += calls
            yield Step(i, s, x, nfe)


def _entropy(z: Tensor) -> int:
    """A seed that depends on every number of a draw."""
    return int.from_bytes(hashlib.sha256(z.detach().double().cpu().numpy().tobytes()).digest()[:4])


def _check_method(method: str, known: Sequence[str] | dict[str, Any]) -> None:
    if method not in known:
        names = [repr(name) for name in known]
        raise ValueError(f"method must be {', '.join(names[:-1])} or {names[-1]}, got {method!r}")


def _check_finite(solver: Solver, x: Tensor, t: float) -> None:
    if not x.isfinite().all():
        raise ArithmeticError(f"{solver} reached a state that is not finite at t={t:g}; take smaller steps or tolerances")
