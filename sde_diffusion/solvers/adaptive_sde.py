"""The reverse SDE with automatic steps, one step size per sample.

    dx = (f x - (1 + eta^2)/2 g^2 score) dt + eta g dw                                           (1)

A step from t to s = t - h, with the increment dw of a Brownian path, is Heun's, and Euler's is the comparison (Jolicoeur-Martineau et al.
2021, arXiv 2105.14080, algorithm 1; v is the drift of (1)):

    k1 = -h v(x, t) + eta g(t) dw,    k2 = -h v(x + k1, s) + eta g(s) dw,    x' = x + k1,    x_s = x + (k1 + k2)/2      (2)
    E = rms((k2 - k1)/2 / d),         d = max(atol, rtol max(|x'|, |x'_last|))                                          (3)

The step is accepted if E <= 1, and the next one is 0.9 h E^-0.9. The paper draws a new dw after a rejection. That is not a sample of (1):
which increments are rejected depends on them and on where the state is, so those that are accepted are no longer normal. On Gaussian data
of standard deviation 0.5, with rtol = 0.05, it ends at 0.54 for VP and 0.68 for VE. Here the same Brownian path is looked at again, at an
earlier time, and the law is right to the tolerance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.expressions import plain_floats
from sde_diffusion.noise import Brownian, Noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_positive
from sde_diffusion.solvers.adaptive import CROWD, check_calls, select
from sde_diffusion.solvers.base import Move, Solver, Step
from sde_diffusion.solvers.first_order import check_eta
from sde_diffusion.solvers.tableau import Tableau

_FIRST_STEP = 0.01  # in t; this, 0.9 and 0.9 are the paper's h_init, theta and r
_SAFETY, _EXPONENT = 0.9, 0.9
_SMALLEST_STEP = 1e-9  # in t


@dataclasses.dataclass(frozen=True)
class AdaptiveSDE(Solver):
    """The reverse SDE (1) by steps (2) that follow a tolerance (3), each sample its own (Jolicoeur-Martineau et al. 2021).

    The grid only says where states are reported; its default is the two ends. Samples that have arrived leave the batch; what a sample
    becomes does not depend on its companions if its noise does not (`PerSample`).

    Args:
        rtol: relative tolerance per step, > 0; the paper's eps_rel, 0.01 to 0.1.
        atol: absolute tolerance per step, > 0, in units of the state; the paper's eps_abs is two of 256 levels of data in [-1, 1].
        eta: amount of noise, 1 for the reverse SDE, between 0 (the flow) and larger.
        rejection: "brownian" looks at the same Brownian path again after a rejection; "fresh" draws a new increment, as in the paper,
            which in few dimensions samples another law.
        max_nfe: most network calls, at least 2.
        compact: whether samples leave the batch; False for a denoiser that itself holds something per sample.

    Raises:
        ValueError: for another rejection, a number out of range, or a corrector: the samples are not at one time together.
        ArithmeticError: while sampling, if the tolerance cannot be met or takes more than max_nfe calls.
    """

    rtol: float = 0.05
    atol: float = 0.0078
    eta: float = 1.0
    rejection: str = "brownian"
    max_nfe: int = 10_000
    compact: bool = True
    order: ClassVar[int] = 0  # the error follows the tolerance, not the number of steps
    default_steps: ClassVar[int] = 1
    ends_at_zero: ClassVar[bool] = False

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(rtol=self.rtol, atol=self.atol)
        check_eta(self.eta)
        check_calls(self.max_nfe, 2)
        if self.rejection not in ("brownian", "fresh"):
            raise ValueError(f"rejection must be 'brownian' or 'fresh', got {self.rejection!r}")

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        raise ValueError(f"{self} chooses its steps while it runs and has no table; EulerMaruyama has one")

    def solve(
        self, denoiser: Denoiser, x: Tensor, grid: Tensor, noise: Noise, cond: Any = None, corrector: Move | None = None
    ) -> Iterator[Step]:
        if corrector is not None:
            raise ValueError(f"{self} brings each sample to the times of the grid at another call and cannot be corrected there")
        sde, whole, b = denoiser.sde, x, len(x)
        ends = grid.to(x.device)
        n = len(grid) - 1

        def column(values: Tensor) -> Tensor:
            return values.to(x.dtype).reshape(*values.shape, *[1] * (x.ndim - 1))

        states: list[Tensor] = [x] * (n + 1)
        t = ends[0].expand(b)
        h = torch.full_like(t, _FIRST_STEP)
        goal = torch.ones(b, dtype=torch.long, device=x.device)  # which time of the grid each sample goes to
        euler = x
        index = torch.arange(b, device=x.device)
        path = Brownian(x) if self.rejection == "brownian" else None
        rejected = torch.zeros_like(goal)
        evaluations = torch.zeros_like(goal)
        nfe, done = 0, 1
        while True:
            if nfe + 2 > self.max_nfe:
                raise ArithmeticError(
                    f"{self} made {nfe} network calls and has not arrived at t={grid[-1].item():g}; raise rtol, atol or max_nfe"
                )
            end = ends[goal.clamp(max=n)]
            left = t - end
            cut = h > 0.999 * left
            step = torch.where(cut, left, h)
            s = torch.where(cut, end, t - step)
            z = noise(whole)[index]  # of the whole batch, so that a sample's numbers do not depend on who is left
            if path is None:
                dw = column(step.sqrt()) * z
            else:
                w = path.at(ends[0] - s, z)
                dw = w - path.values[0]
            times = torch.stack([t, s])
            alpha, g = sde.alpha(times), sde.g(times)
            k = 0.5 * (1 + self.eta**2) * (g / sde.sigma(times)) ** 2
            of_x, of_x0, of_w = column(-step * (sde.f(times) + k)), column(step * k * alpha), column(self.eta * g)
            k1 = x * of_x[0] + denoiser(x, t, cond) * of_x0[0] + of_w[0] * dw
            euler_new = x + k1
            k2 = euler_new * of_x[1] + denoiser(euler_new, s, cond) * of_x0[1] + of_w[1] * dw
            nfe += 2
            evaluations[index] += 2
            with torch.no_grad():
                scale = (torch.maximum(euler_new.abs(), euler.abs()) * self.rtol).clamp_(min=self.atol)
                error = torch.linalg.vector_norm(((k2 - k1) / (2 * scale)).flatten(1), dim=1).double() / x[0].numel() ** 0.5
                accept = error <= 1
                wished = _SAFETY * step * error.clamp(min=1e-10) ** -_EXPONENT
                h = torch.where(cut & accept, torch.maximum(h, wished), wished)
                lost = ~accept & ((step < _SMALLEST_STEP) | ~error.isfinite())
                arrived = accept & (s == end) & (goal <= n)
                all_accepted, any_arrived, failed = torch.stack([accept.all(), arrived.any(), lost.any()]).tolist()
            if failed:
                worst = int(lost.nonzero()[0])
                raise ArithmeticError(
                    f"{self} cannot meet its tolerance at t={t[worst].item():.4g} (sample {int(index[worst])}, error "
                    f"{error[worst].item():.3g} tolerances at the smallest step); raise rtol and atol"
                )
            if path is not None:
                path.move(ends[0] - s, w, accept)
            if all_accepted:
                x, t, euler = x + 0.5 * (k1 + k2), s, euler_new
            else:
                keep = column(accept).bool()
                x, t, euler = torch.where(keep, x + 0.5 * (k1 + k2), x), torch.where(accept, s, t), torch.where(keep, euler_new, euler)
                rejected[index] += ~accept
            if not any_arrived:
                continue
            for i in goal[arrived].unique().tolist():
                here = (arrived & (goal == i)).nonzero()[:, 0]
                states[i] = states[i].index_copy(0, index[here], x[here])
            goal = goal + arrived
            least = int(goal.min())
            for i in range(done, least):
                yield Step(i, grid[i].item(), states[i], nfe, rejected.clone(), evaluations=evaluations.clone())
            done = least
            if least > n:
                return
            stay = (goal <= n).nonzero()[:, 0]
            if self.compact and (len(index) - len(stay)) * CROWD >= len(index):
                cond = select(cond, stay, len(index))
                x, t, h, goal, euler, index = (v[stay] for v in (x, t, h, goal, euler, index))
                if path is not None:
                    path.select(stay)
