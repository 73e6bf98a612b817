"""Solvers are tables of numbers, and one loop runs them all.

Row i of a tableau evaluates the denoiser at time t_i, if it has one, and replaces the state by

    x <- x_i x + base_i x_base + sum_j x0_ij x0_hat_j + noise_i z                                (1)

where x_base is the state at which the current step began, x0_hat_0, x0_hat_1, ... are the latest predictions, the newest first, and z
is fresh standard normal noise. Where a row ends a step, x_base becomes x. Euler-Maruyama, DDPM's ancestral sampler, DDIM, Heun: each is
such a table, computed once per (SDE, grid) in float64; at run time a row is one network call and one linear combination.
"""

from __future__ import annotations

import abc
import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.denoisers.base import Prediction
from sde_diffusion.noise import Noise, make_noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.solvers.grids import Grid, check_grid, uniform

_PRIOR_TIME = 0.01  # how far from t_max a grid may start and still take the prior for p_t


@dataclasses.dataclass(frozen=True, eq=False)
class Tableau:
    """The table (1): r rows, float64, on the CPU.

    Args:
        t: (r,) where row i evaluates the denoiser; NaN: it evaluates nothing.
        x: (r,) weight of the current state.
        base: (r,) weight of the state at the start of the current step.
        x0: (r, k) weights of the k latest predictions, newest first.
        noise: (r,) weight of fresh standard normal noise.
        ends: (r,) the time that the state reaches if a step ends here, else NaN.
    """

    t: Tensor
    x: Tensor
    base: Tensor
    x0: Tensor
    noise: Tensor
    ends: Tensor

    def __post_init__(self) -> None:
        r = len(self.t)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value.dtype != torch.float64 or value.shape[:1] != (r,) or value.ndim != (2 if field.name == "x0" else 1):
                raise ValueError(f"Tableau.{field.name} must be float64 with {r} rows, got {value.dtype} {tuple(value.shape)}")
        for name in ("x", "base", "x0", "noise"):
            if not getattr(self, name).isfinite().all():
                row = int((~getattr(self, name).reshape(r, -1).isfinite().all(1)).nonzero()[0])
                raise ValueError(
                    f"row {row} of the tableau (t={self.t[row].item():.4g}) has a weight {name} that is not finite: the solver divides by "
                    "sigma or alpha = 0 there; end the grid at t_min > 0 and start it at the SDE's t_max"
                )

    def __len__(self) -> int:
        return len(self.t)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tableau):
            return NotImplemented
        names = [field.name for field in dataclasses.fields(self)]
        return all(torch.allclose(getattr(self, n), getattr(other, n), 0, 0, equal_nan=True) for n in names)

    __hash__ = None  # type: ignore[assignment]

    @functools.cached_property
    def reused(self) -> list[bool]:
        """Whether each evaluation is used by a row after its own."""
        reused: list[bool] = []
        for evaluates, weights in zip((~self.t.isnan()).tolist(), self.x0.tolist(), strict=True):
            if evaluates:
                reused.append(False)
            for age, weight in enumerate(weights[: len(reused)]):
                if weight and not (evaluates and age == 0):
                    reused[-1 - age] = True
        return reused

    def __str__(self) -> str:
        width = self.x0.shape[1]
        head = ["t", "x", "base", *(f"x0[-{j}]" if j else "x0" for j in range(width)), "noise", "ends"]
        columns = [self.t, self.x, self.base, *self.x0.unbind(1), self.noise, self.ends]
        rows = [["." if math.isnan(value) else f"{value:.6g}" for value in row] for row in torch.stack(columns, 1).tolist()]
        return "\n".join("".join(f"{cell:>12}" for cell in row) for row in [head, *rows])

    def __getitem__(self, rows: slice) -> Tableau:
        """Some of the rows."""
        return Tableau(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))

    @staticmethod
    def interleave(tables: Sequence[Tableau]) -> Tableau:
        """The first rows of all tables, then the second rows, and so on; the tables are of one shape."""
        names = [field.name for field in dataclasses.fields(Tableau)]
        return Tableau(*(torch.stack([getattr(table, name) for table in tables], 1).flatten(0, 1) for name in names))

    @staticmethod
    def concatenate(tables: Sequence[Tableau]) -> Tableau:
        """The rows of all tables, one after the other."""
        width = max(table.x0.shape[1] for table in tables)
        parts = {field.name: [getattr(table, field.name) for table in tables] for field in dataclasses.fields(Tableau)}
        parts["x0"] = [torch.nn.functional.pad(w, (0, width - w.shape[1])) for w in parts["x0"]]
        return Tableau(**{name: torch.cat(values) for name, values in parts.items()})


class Step(NamedTuple):
    """What a sampler has reached.

    Args:
        i: number of the step, from 1.
        t: the time reached.
        x: the state there, (b, *d).
        nfe: denoiser calls so far.
        rejected: rejected steps so far per sample, (b,), of an adaptive solver; else None.
        latest: the latest prediction, the state it was made at and what its `raw` returned, if there is one.
    """

    i: int
    t: float
    x: Tensor
    nfe: int
    rejected: Tensor | None = None
    latest: tuple[Prediction, Tensor, Tensor] | None = None

    @property
    def x0_hat(self) -> Tensor | None:
        """The latest prediction, (b, *d); None where a solver keeps none."""
        if self.latest is None:
            return None
        prediction, x, raw = self.latest
        return prediction.finish(x, raw)


class Solver(abc.ABC):
    """How to get from noise to data; final subclasses are frozen dataclasses."""

    order: ClassVar[int]
    """Weak order of convergence in the number of steps, claimed; a test measures it. 0: none is claimed."""
    default_steps: ClassVar[int]
    default_grid: ClassVar[Grid] = uniform
    ends_at_zero: ClassVar[bool] = True
    """Whether a step may end where sigma = 0."""

    @abc.abstractmethod
    def tableau(self, sde: AffineSDE, grid: Tensor) -> Tableau:
        """The table for the decreasing float64 times `grid` (n + 1,).

        Raises:
            ValueError: if a weight is not finite, since the solver divides by a sigma or alpha that is 0 at a time of the grid.
        """

    def solve(self, denoiser: Denoiser, x: Tensor, grid: Tensor, noise: Noise, cond: Any = None) -> Iterator[Step]:
        """Runs from x at grid[0] to grid[-1] and yields what each step reaches. Differentiable."""
        yield from run(_tableau(self, denoiser.sde, tuple(grid.tolist())), denoiser, x, noise, cond)


@functools.lru_cache(maxsize=64)  # 0.3 ms of small operations, as much as the steps themselves on a small network
def _tableau(solver: Solver, sde: AffineSDE, times: tuple[float, ...]) -> Tableau:
    return solver.tableau(sde, torch.tensor(times, dtype=torch.float64))


Corrector = Callable[[Tensor, float], tuple[Tensor, int]]
"""(x, t) -> (x, denoiser calls): moves x at fixed t."""


def run(
    tableau: Tableau, denoiser: Denoiser, x: Tensor, noise: Noise, cond: Any = None, corrector: Corrector | None = None
) -> Iterator[Step]:
    """The loop (1), the only one; `corrector` is called wherever a step ends."""
    evaluates = ~tableau.t.isnan()
    plan = zip(denoiser.at(tableau.t[evaluates], x), tableau.reused, strict=True)
    latest: collections.deque[Tensor] = collections.deque(maxlen=tableau.x0.shape[1])
    base, nfe, i, newest = x, 0, 0, None
    columns = (evaluates, tableau.x, tableau.base, tableau.x0, tableau.noise, tableau.ends)
    for evaluate, wx, wbase, wx0, wnoise, end in zip(*(column.tolist() for column in columns), strict=True):
        if evaluate:
            prediction, reused = next(plan)
            raw, nfe = prediction.raw(x, cond), nfe + 1
            newest = prediction, x, raw
            if reused:
                latest.appendleft(prediction.finish(x, raw))
            else:  # x0_hat = skip x + out raw is never formed: two operations fewer
                latest.appendleft(raw)
                wx += wx0[0] * prediction.skip
                wx0[0] *= prediction.out
        new = x * wx
        if wbase:
            new.add_(base, alpha=wbase)
        for weight, x0_hat in zip(wx0, latest, strict=False):
            if weight:
                new.add_(x0_hat, alpha=weight)
        if wnoise:
            new.add_(noise(x), alpha=wnoise)
        x = new
        if end == end:  # not NaN
            if corrector is not None:
                x, calls = corrector(x, end)
                nfe += calls
            i, base = i + 1, x
            yield Step(i, end, x, nfe, None, newest)


def sample(
    denoiser: Denoiser,
    solver: Solver,
    *,
    shape: Sequence[int] | None = None,
    x: Tensor | None = None,
    steps: int | None = None,
    grid: Grid | Tensor | Sequence[float] | None = None,
    noise: Noise | None = None,
    generator: torch.Generator | None = None,
    seeds: Iterable[int] | None = None,
    cond: Any = None,
    progress: bool = False,
    callback: Callable[[Step], None] | None = None,
    differentiable: bool = False,
) -> Tensor:
    """Draws samples: runs a solver from noise to data.

    Args:
        denoiser: what is sampled; its `sde` is the process.
        solver: such as `DDIM()` or `EulerMaruyama(eta=0.5)`.
        shape: (b, *d) to start from the prior; the dtype and device are those of the denoiser's parameters.
        x: the state (b, *d) at the grid's first time, instead of `shape`.
        steps: number of steps; None for the solver's default.
        grid: a grid such as `karras(rho=7.0)`, or decreasing times in [0, 1] of shape (steps + 1,); None for the solver's own.
        noise: the source of all random numbers; `generator` (one stream) or `seeds` (one per sample) may be given instead.
        cond: condition handed to the denoiser.
        progress: whether to show a progress bar on stderr.
        callback: called with the `Step` reached, after each step.
        differentiable: whether to record gradients through all steps.

    Returns:
        The samples, (b, *d).

    Raises:
        ValueError: if neither or both of `shape` and `x` are given, the grid does not decrease within [0, 1], `steps` contradicts
            the grid, or the solver cannot run on it.
    """
    source = make_noise(noise, generator=generator, seeds=seeds)
    times = _times(denoiser.sde, solver, steps, grid)
    state = _start(denoiser, times, shape, x, source)
    with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
        path = solver.solve(denoiser, state, times, source, cond)
        for step in _with_bar(path, len(times) - 1) if progress else path:
            state = step.x
            if callback is not None:
                callback(step)
    return state


def trajectory(
    denoiser: Denoiser,
    solver: Solver,
    *,
    shape: Sequence[int] | None = None,
    x: Tensor | None = None,
    steps: int | None = None,
    grid: Grid | Tensor | Sequence[float] | None = None,
    noise: Noise | None = None,
    generator: torch.Generator | None = None,
    seeds: Iterable[int] | None = None,
    cond: Any = None,
    progress: bool = False,
    callback: Callable[[Step], None] | None = None,
    differentiable: bool = False,
) -> tuple[Tensor, Tensor]:
    """All states on the way; arguments as for `sample`.

    Returns:
        The times (n + 1,) in float64 and the states (n + 1, b, *d), the start included.
    """
    source = make_noise(noise, generator=generator, seeds=seeds)
    times = _times(denoiser.sde, solver, steps, grid)
    start = _start(denoiser, times, shape, x, source)
    ends, states = [float(times[0])], [start]

    def keep(step: Step) -> None:
        ends.append(step.t)
        states.append(step.x)
        if callback is not None:
            callback(step)

    sample(denoiser, solver, x=start, grid=times, noise=source, cond=cond, progress=progress, callback=keep, differentiable=differentiable)
    return torch.tensor(ends, dtype=torch.float64), torch.stack(states)


def _times(sde: AffineSDE, solver: Solver, steps: int | None, grid: Grid | Tensor | Sequence[float] | None) -> Tensor:
    """The checked times (n + 1,) that `steps` and `grid` mean for this solver."""
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if grid is None:
        grid = solver.default_grid
        if sde.length is not None and not solver.ends_at_zero:
            grid = grid(t_min=1 / sde.length)
    if isinstance(grid, Grid):
        if steps is None:
            steps = solver.default_steps if sde.length is None else min(solver.default_steps, sde.length)
        times = grid(sde, steps)
    else:
        times = torch.as_tensor(grid, dtype=torch.float64, device="cpu")
        if times.ndim != 1 or len(times) < 2:
            raise ValueError(f"a grid must be at least 2 times in one dimension, got shape {tuple(times.shape)}")
        if steps is not None and steps != len(times) - 1:
            raise ValueError(f"steps={steps} contradicts a grid of {len(times)} times, which makes {len(times) - 1} steps; leave one out")
    check_grid(times)
    if not solver.ends_at_zero and not sde.sigma(times[-1]) > 0:
        raise ValueError(
            f"{solver} divides by sigma, which is 0 at the grid's end t={times[-1].item():g}; "
            f"end it at t_min > 0{f', such as 1/{sde.length}' if sde.length else ''}, and wrap the solver in FinalDenoise to reach the data"
        )
    return times


def _start(denoiser: Denoiser, times: Tensor, shape: Sequence[int] | None, x: Tensor | None, noise: Noise) -> Tensor:
    """The state at the grid's first time."""
    if (shape is None) == (x is None):
        raise ValueError("pass either shape=(b, *d), to start from the prior, or x=, to start from a state")
    if x is not None:
        if x.ndim < 2 or not x.is_floating_point():
            raise ValueError(f"x must be floating point of shape (b, *d), got {x.dtype} {tuple(x.shape)}; add a dimension?")
        return x
    assert shape is not None
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"shape must be (b, *d) with at least one data dimension, got {tuple(shape)}")
    if abs(float(times[0]) - denoiser.sde.t_max) > _PRIOR_TIME:
        raise ValueError(
            f"the prior stands for t={denoiser.sde.t_max:g}, but the grid starts at t={times[0].item():g}; "
            "pass x= with the state at that time"
        )
    return denoiser.sde.prior_sample(shape, noise, device=denoiser.like.device, dtype=denoiser.like.dtype)


def _with_bar(path: Iterator[Step], total: int) -> Iterator[Step]:
    from tqdm import tqdm

    yield from tqdm(path, total=total, unit="step", leave=False)
