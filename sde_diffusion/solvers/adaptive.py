"""The probability-flow ODE with automatic steps, one step size per sample.

In the variables of clock.py the flow is dw/dp = a w + b x0_hat. It is integrated by a pair of Runge-Kutta methods (Dormand & Prince 1980;
Bogacki & Shampine 1989) with local extrapolation, and a PI rule for the step size (Hairer, Norsett & Wanner 1993, II.4; Gustafsson 1991).
Of a step all arithmetic on times, the denoiser's too, is done at once for all stages and samples; a stage is then one product with the
slopes before it, the raw network call and four multiplications.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.expressions import plain_floats
from sde_diffusion.noise import Noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_positive
from sde_diffusion.solvers.base import Move, Solver, Step
from sde_diffusion.solvers.clock import FORMS, Clock, Slopes, slopes_at
from sde_diffusion.solvers.tableau import Tableau


class Pair(NamedTuple):
    """Nodes c, rows a (the last one the result's weights) and the weights e of the error estimate, which use the slope there too."""

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    e: tuple[float, ...]
    order: int


PAIRS = {
    "dopri5": Pair(
        (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0),  # the last two stages are both at 1
        (
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
        5,
    ),
    "bosh3": Pair((1 / 2, 3 / 4, 1.0), ((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)), (-5 / 72, 1 / 12, 1 / 9, -1 / 8), 3),
}


class Along(abc.ABC):
    """An integral along the paths that `integrate` follows, one value per sample."""

    def error(self, step: Tensor, rtol: float, atol: float) -> Tensor | None:
        """The integral's error in a step (b,), in tolerances; None where the state's alone is to choose the steps."""
        return None

    @abc.abstractmethod
    def slope(self, stage: int, slopes: Slopes, row: int, w: Tensor, cond: Any, out: Tensor | None) -> Tensor:
        """`slopes(row, w, cond, out)`, with what the integral needs at this stage of the step remembered.

        Stage 0 is the start of a path; that of a later step was the last stage of the step before.
        """

    @abc.abstractmethod
    def advance(self, step: Tensor, accept: Tensor) -> None:
        """Adds the step of signed length `step` (b,) of the samples whose step was accepted, (b,)."""

    @abc.abstractmethod
    def keep(self, index: Tensor) -> None:
        """Goes on with the samples `index` of the batch; the others have arrived."""


_FIRST_STEP = 0.55  # of the whole interval in p, times tolerance^(1/order): it costs no call; 0.7 jumps over decisions between modes
_STRETCH = 1.15  # how much longer the last step may be; times _SAFETY less than 1, or a rejected step would be tried again
_SAFETY, _SHRINK, _GROW = 0.8, 0.2, 5.0  # 0.8: at 0.9 twice the rejections, which a batch's slowest sample pays
_PROPORTIONAL, _INTEGRAL = 0.6, 0.3  # times 1/order; 0.6, 0.2 and 0.7, 0.4 cost the slowest of 1024 paths 6 calls more
_LEAST_ERROR, _LEAST_BEFORE = 1e-10, 1e-4  # in tolerances; a lucky step must not hold the next one back
_SMALLEST_STEP = 1e-7  # of the whole interval: below, float64 times and float32 states no longer resolve the step
CROWD = 16  # samples leave the batch as soon as they are one in so many of it; on a small MLP 4, 16 and at once cost the same within 2 %


@dataclasses.dataclass(frozen=True)
class AdaptiveODE(Solver):
    """The probability-flow ODE dx/dt = f x - g^2/2 score (Song et al. 2021, eq 13) with automatic steps, each sample its own.

    The grid only says where states are reported; its default is the two ends. Samples that have arrived leave the batch, so that the cost
    is that of the mean sample; what a sample becomes does not depend on its companions. On a ring of 8 Gaussians at 1e-5 the slowest of
    1024 paths takes 85 calls, the mean one 58; scipy's RK45 in t takes 86 to 104 for all (seeds 1 to 3).

    Args:
        method: "dopri5", order 5 and 6 calls per step, or "bosh3", order 3 and 3 calls, for tolerances of 1e-3 and more.
        rtol: relative tolerance per step, > 0.
        atol: absolute tolerance per step, > 0, in units of the data (form "t": of the state).
        form: the variables of integration: "angle", "velocity", "log_snr" or "t" (clock.py).
        data_std: standard deviation c of the data, > 0: the noise level at which the path bends; 1.4 times too much cost the ring
            7 % more calls. "t" does without.
        max_nfe: most network calls, at least 8.
        compact: whether samples leave the batch; False for a denoiser that itself holds something per sample. `cond` may be a tensor, or
            tuples, lists and dicts of them; those of leading dimension b are thinned out with the batch.

    Raises:
        ValueError: for another method or form, or a number out of range.
        ArithmeticError: while sampling, if the tolerance cannot be met or takes more than max_nfe calls.
    """

    method: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    form: str = "angle"
    data_std: float = 0.7
    max_nfe: int = 10_000
    compact: bool = True
    order: ClassVar[int] = 0  # the error follows the tolerance, not the number of steps
    default_steps: ClassVar[int] = 1
    ends_at_zero: ClassVar[bool] = False

    def __post_init__(self) -> None:
        plain_floats(self)
        check_positive(rtol=self.rtol, atol=self.atol, data_std=self.data_std)
        if self.method not in PAIRS:
            raise ValueError(f"method must be {' or '.join(map(repr, PAIRS))}, got {self.method!r}; ScipyODE has others")
        if self.form not in FORMS:
            raise ValueError(f"form must be {', '.join(map(repr, FORMS[:-1]))} or {FORMS[-1]!r}, got {self.form!r}")
        check_calls(self.max_nfe, 8)

    def clock(self, sde: AffineSDE) -> Clock:
        """The variables of integration for a process."""
        return Clock(sde, self.data_std, self.form)

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        raise ValueError(f"{self} chooses its steps while it runs and has no table; Heun has one")

    def solve(
        self, denoiser: Denoiser, x: Tensor, grid: Tensor, noise: Noise, cond: Any = None, corrector: Move | None = None
    ) -> Iterator[Step]:
        return self.integrate(denoiser, x, grid, cond, corrector)

    def integrate(
        self, denoiser: Denoiser, x: Tensor, grid: Tensor, cond: Any = None, corrector: Move | None = None, along: Along | None = None
    ) -> Iterator[Step]:
        """The states at the times of the grid, which may also increase, with an integral `along` the paths where there is one to take."""
        clock, pair = self.clock(denoiser.sde), PAIRS[self.method]
        grid = grid.to(x.device)
        times, (first, last) = grid.tolist(), (float(grid[0]), float(grid[-1]))
        clocks, sizes = clock(grid), clock.scale(grid).tolist()
        ends, span = clocks.tolist(), float((clocks[-1] - clocks[0]).abs())
        sign = 1.0 if ends[-1] > ends[0] else -1.0
        column = (-1, *[1] * (x.ndim - 1))  # numbers per sample as weights of states
        c = torch.tensor(pair.c, dtype=torch.float64, device=x.device).view(-1, *[1] * x.ndim) * sign
        *a, e = (torch.tensor(row, dtype=x.dtype, device=x.device) * sign for row in (*pair.a, pair.e))
        root, least = x[0].numel() ** 0.5, _SMALLEST_STEP * span
        first_step = span * _FIRST_STEP * (self.rtol + self.atol) ** (1 / pair.order)

        def slopes(p: Tensor, like: Tensor) -> Slopes:
            return slopes_at(denoiser, clock.slope(p, first, last, like.dtype), like)

        def take(stage: int, slopes: Slopes, row: int, w: Tensor, cond: Any, out: Tensor | None = None) -> Tensor:
            return slopes(row, w, cond, out) if along is None else along.slope(stage, slopes, row, w, cond, out)

        def start(w: Tensor, p: float) -> Tensor:
            return take(0, slopes(torch.full((1, len(w), *column[1:]), p, dtype=torch.float64, device=w.device), w), 0, w, cond)

        b = len(x)
        w, h = x / sizes[0], torch.full((b,), first_step, dtype=torch.float64, device=x.device)
        rejected = torch.zeros(b, dtype=torch.long, device=x.device)
        evaluations = torch.ones_like(rejected)
        k, nfe = start(w, ends[0]), 1
        for i, (t, end) in enumerate(zip(times[1:], ends[1:], strict=True), start=1):
            index, arrived, part, since = torch.arange(b, device=x.device), [w, k, h, rejected], cond, nfe
            left = torch.full_like(h, abs(end - ends[i - 1]))
            before = torch.zeros_like(h)  # log of the error of the last accepted step
            rows = Rows(k, len(a) + 1)
            while True:
                if nfe + len(a) > self.max_nfe:
                    raise ArithmeticError(f"{self} made {nfe} network calls and has not arrived at t={t:g}; raise rtol, atol or max_nfe")
                step = torch.where(h * _STRETCH > left, left, torch.minimum(h, left / 2))  # the last two are equal: no crumb is left
                slope = slopes(torch.addcmul((end - sign * left).view(column), c, step.view(column)), w)
                width = step.to(x.dtype).view(column)
                for stage, weights in enumerate(a):
                    new = torch.addcmul(w, width, rows.sum(weights))
                    rows[stage + 1] = take(stage + 1, slope, min(stage, len(c) - 1), new, part, rows.out[stage + 1])
                nfe += len(a)
                with torch.no_grad():
                    unit = torch.maximum(w.abs(), new.abs()).mul_(self.rtol * root).add_(self.atol * root)
                    error = torch.linalg.vector_norm((rows.sum(e) / unit).flatten(1), dim=1).double().mul_(step)
                    accept = error <= 1
                    if along is not None and (other := along.error(step, self.rtol, self.atol)) is not None:
                        error, accept = torch.maximum(error, other), accept & (other <= 1)
                    # Logarithms: one power would cost as much as three other operations.
                    error = error.clamp_(min=_LEAST_ERROR).log_()
                    factor = torch.where(accept, _INTEGRAL * before - _PROPORTIONAL * error, -error).mul_(1 / pair.order).exp_()
                    left = left - step * accept
                    moving = left > 0  # who waits for the others keeps its step
                    h = torch.where(moving, factor.mul_(_SAFETY).clamp_(_SHRINK, _GROW).mul_(step), h)
                    before = torch.where(accept, error.clamp(min=math.log(_LEAST_BEFORE)), before)
                    rejected = rejected + ~accept
                    still = torch.where(h >= least, moving, torch.nan).sum().item()  # the one synchronisation
                if math.isnan(still):
                    lost = (~accept & ~(h >= least)).nonzero()[:, 0].tolist()
                    if lost:
                        at = clock.slope(end - sign * left[lost[0]], first, last).levels.time().item()
                        raise ArithmeticError(
                            f"{self} cannot meet its tolerance at t={at:.4g} (sample {int(index[lost[0]])}, error "
                            f"{math.exp(error[lost[0]]):.3g} tolerances at the smallest step); raise rtol and atol, or use float64"
                        )
                    still = moving.sum().item()
                if along is not None:
                    along.advance(step * sign, accept)
                keep = accept.view(column)
                w = torch.where(keep, new, w)
                rows[0] = torch.where(keep, rows[-1], rows[0], out=rows.out[0])
                if still and not (self.compact and (len(index) - still) * CROWD >= len(index)):
                    continue
                evaluations[index] += nfe - since
                since = nfe
                values = (w, rows[0], h, rejected)
                arrived = [o.index_copy(0, index, v) if len(v) < b else v for o, v in zip(arrived, values, strict=True)]
                if not still:
                    break
                stay = moving.nonzero()[:, 0]
                part = select(part, stay, len(index))
                if along is not None:
                    along.keep(stay)
                w, k, h, rejected, left, before, index = (v[stay] for v in (*values, left, before, index))
                rows = Rows(k, len(a) + 1)
            w, k, h, rejected = arrived
            state, calls = w * sizes[i], 0
            if corrector is not None:
                state, calls = corrector(state, t)
                if i + 1 < len(times):
                    w, calls = state / sizes[i], calls + 1
                    k = start(w, end)
                nfe, evaluations = nfe + calls, evaluations + calls
            yield Step(i, t, state, nfe, rejected.clone(), evaluations=evaluations.clone())


class Rows(list[Tensor]):
    """The slopes of a step, in one buffer `out` unless gradients are recorded."""

    def __init__(self, first: Tensor, n: int) -> None:
        self.out: Sequence[Tensor | None] = [None] * n
        super().__init__([first] * n)
        if not torch.is_grad_enabled():
            buffer = first.new_empty(n, *first.shape)
            self[:] = self.out = buffer.unbind()
            self[0].copy_(first)
            flat = buffer.flatten(1).T
            self.first = [flat[:, :i] for i in range(n + 1)]

    def sum(self, weights: Tensor) -> Tensor:
        """sum_i weights_i rows_i of the first rows, in one operation."""
        n = len(weights)
        columns = torch.stack(self[:n]).flatten(1).T if self.out[0] is None else self.first[n]
        return torch.mv(columns, weights).view(self[0].shape)


def check_calls(max_nfe: int, least: int) -> None:
    """Raises ValueError unless max_nfe allows the calls of one step."""
    if not max_nfe >= least:
        raise ValueError(f"max_nfe must be at least {least}, the calls of one step, got {max_nfe}")


def select(cond: Any, index: Tensor, b: int) -> Any:
    """The rows `index` of every tensor of leading dimension b in nested tuples, lists and dicts; the rest as it is."""
    if isinstance(cond, Tensor):
        return cond[index.to(cond.device)] if cond.ndim and len(cond) == b else cond
    if isinstance(cond, dict):
        return {key: select(value, index, b) for key, value in cond.items()}
    if isinstance(cond, tuple) and hasattr(cond, "_fields"):
        return type(cond)(*(select(value, index, b) for value in cond))
    if isinstance(cond, (tuple, list)):
        return type(cond)(select(value, index, b) for value in cond)
    return cond
