"""The probability-flow ODE with automatic steps.

With rho = sigma/alpha = tan(theta), l = log rho and the state of unit noise-and-signal scale z = x/sqrt(alpha^2 + sigma^2), the flow is

    dz/dl = cos(theta) (cos(theta) z - x0_hat)                                                   (1)

for every affine process: bounded, smooth, and the same whatever the SDE. It is integrated by Dormand & Prince's 5(4) pair with a step
size per sample, controlled by a PI rule (Hairer, Norsett & Wanner 1993, II.4; Gustafsson 1991).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.expressions import plain_floats
from sde_diffusion.noise import Noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_positive
from sde_diffusion.shapes import expand, mean_event
from sde_diffusion.solvers.base import Solver, Step
from sde_diffusion.solvers.tableau import Tableau

_C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_E = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

_FIRST_STEP = 0.05  # of the whole interval in l; a wrong guess costs one rejection
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 5.0
_PROPORTIONAL, _INTEGRAL = 0.7 / 5, 0.4 / 5  # Gustafsson's exponents for order 5
_SMALLEST_STEP = 1e-7  # of the whole interval: below, float64 times and float32 states no longer resolve the step


@dataclasses.dataclass(frozen=True)
class ProbabilityFlowODE(Solver):
    """The probability-flow ODE dx/dt = f x - g^2/2 score (Song et al. 2021, eq 13) with automatic steps.

    The grid only says where states are reported; its default is the two ends.

    Args:
        method: "dopri5", on the device, with a step size per sample, in log(sigma/alpha); or "scipy", `scipy.integrate.solve_ivp`'s RK45
            in t for the whole batch, on the CPU in float64.
        rtol: relative tolerance per step, > 0.
        atol: absolute tolerance per step, > 0, in units of data of unit scale.
        max_nfe: most network calls, at least 8.

    Raises:
        ValueError: for another method.
        ArithmeticError: while sampling, if the tolerance cannot be met or takes more than max_nfe calls.
    """

    method: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    max_nfe: int = 10_000
    order: ClassVar[int] = 0  # the error follows the tolerance, not the number of steps
    default_steps: ClassVar[int] = 1
    ends_at_zero: ClassVar[bool] = False

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(rtol=self.rtol, atol=self.atol)
        if self.method not in ("dopri5", "scipy"):
            raise ValueError(f"method must be 'dopri5' or 'scipy', got {self.method!r}")

    def tableau(self, sde: AffineSDE, grid: Tensor) -> Tableau:
        raise ValueError(f"{self} chooses its steps while it runs and has no table; Heun has one")

    def solve(self, denoiser: Denoiser, x: Tensor, grid: Tensor, noise: Noise, cond: Any = None) -> Iterator[Step]:
        yield from (self._dopri5 if self.method == "dopri5" else self._scipy)(denoiser, x, grid, cond)

    def _dopri5(self, denoiser: Denoiser, x: Tensor, grid: Tensor, cond: Any) -> Iterator[Step]:
        sde = denoiser.sde
        nfe = 0

        def slope(l: Tensor, z: Tensor) -> Tensor:
            nonlocal nfe
            nfe += 1
            t = sde.t_of_log_snr(-l)
            cos = expand(torch.rsqrt(1 + torch.exp(2 * l)), z)
            return cos * (cos * z - denoiser(z / cos * expand(sde.alpha(t), z), t, cond))

        ends = -sde.log_snr(grid).to(x.device)
        span = (ends[0] - ends[-1]).abs()
        l = ends[0].expand(len(x)).clone()
        z = x / expand(torch.sqrt(sde.alpha(grid[0]) ** 2 + sde.sigma(grid[0]) ** 2), x)
        sign = torch.sign(ends[-1] - ends[0])
        h = (span * _FIRST_STEP).expand(len(x)).clone()
        previous_error = torch.ones_like(l)
        rejected = torch.zeros(len(x), dtype=torch.long, device=x.device)
        k = slope(l, z)
        for i, (t, end) in enumerate(zip(grid[1:].tolist(), ends[1:], strict=True), start=1):
            while True:
                left = (end - l).abs()
                moving = left > 0
                if not moving.any():
                    break
                if nfe > self.max_nfe:
                    raise ArithmeticError(f"{self} made {nfe} network calls and has not arrived at t={t:g}; raise rtol, atol or max_nfe")
                # A step that would leave a crumb before the end takes it along.
                h_try = torch.where(h > 0.999 * left, left, h) * sign
                ks = [k]
                for c, a in zip(_C, _A, strict=True):
                    step = sum((weight * stage for weight, stage in zip(a, ks, strict=True) if weight), torch.zeros_like(z))
                    z_new = z + expand(h_try, z) * step
                    ks.append(slope(l + c * h_try, z_new))
                defect = sum((weight * stage for weight, stage in zip(_E, ks, strict=True) if weight), torch.zeros_like(z))
                scale = self.atol + self.rtol * torch.maximum(z.abs(), z_new.abs())
                error = mean_event((expand(h_try, z) * defect / scale) ** 2).sqrt().to(l)
                accept = moving & (error <= 1)
                reject = moving & ~accept
                if (reject & (h_try.abs() < _SMALLEST_STEP * span)).any() or not error.isfinite().all():
                    worst = int(torch.where(reject, error.nan_to_num(nan=torch.inf), 0).argmax())
                    raise ArithmeticError(
                        f"{self} cannot meet its tolerance at t={sde.t_of_log_snr(-l[worst]).item():.4g} (sample {worst}, error "
                        f"{error[worst].item():.3g} tolerances at the smallest step); raise rtol and atol, or use float64"
                    )
                factor = _SAFETY * error.clamp(min=1e-10) ** -_PROPORTIONAL * torch.where(accept, previous_error, 1.0) ** _INTEGRAL
                h = torch.where(moving, h_try.abs() * factor.clamp(_SHRINK, _GROW), h)
                previous_error = torch.where(accept, error.clamp(min=1e-4), previous_error)
                keep = expand(accept, z).bool()
                z, k = torch.where(keep, z_new, z), torch.where(keep, ks[-1], k)
                l = torch.where(accept, torch.where(h_try.abs() == left, end, l + h_try), l)
                rejected = rejected + reject
            size = expand(torch.sqrt(sde.alpha(t) ** 2 + sde.sigma(t) ** 2), z)
            yield Step(i, t, z * size, nfe, rejected)

    def _scipy(self, denoiser: Denoiser, x: Tensor, grid: Tensor, cond: Any) -> Iterator[Step]:
        from scipy.integrate import solve_ivp

        flow = denoiser.sde.reverse(denoiser, eta=0, shape=x.shape, cond=cond)
        nfe = 0
        for i, (t, s) in enumerate(zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True), start=1):
            y = x.detach().double().cpu().numpy().ravel()
            solution = solve_ivp(flow, (t, s), y, method="RK45", rtol=self.rtol, atol=self.atol)
            if not solution.success:
                raise ArithmeticError(f"{self} stopped before t={s:g}: {solution.message}; raise rtol and atol")
            nfe += solution.nfev
            x = torch.from_numpy(solution.y[:, -1]).reshape(x.shape).to(x)
            yield Step(i, s, x, nfe)
