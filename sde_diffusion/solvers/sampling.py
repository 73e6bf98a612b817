"""Running a solver from noise to data."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.noise import Noise, make_noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_count
from sde_diffusion.sdes.learned import LearnedSDE
from sde_diffusion.solvers.auto import auto
from sde_diffusion.solvers.base import Solver, Step, run
from sde_diffusion.solvers.grids import Grid, check_grid
from sde_diffusion.solvers.tableau import Tableau

_log = logging.getLogger("sde_diffusion")

AUTO_NFE = 20  # network calls of "auto"
_PRIOR_TIME = 0.01  # how far from t_max a grid may start and still take the prior for p_t


def sample(
    denoiser: Denoiser,
    solver: Solver | Tableau | str = "auto",
    *,
    shape: Sequence[int] | None = None,
    x: Tensor | None = None,
    steps: int | None = None,
    nfe: int | None = None,
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
        solver: such as `DDIM()` or `EulerMaruyama(eta=0.5)`; a `Tableau`; or "auto", which takes the table that was fitted to the
            denoiser for `nfe` calls, if there is one, or else chooses solver and grid by `auto(sde, nfe)`, and says which in the log
            "sde_diffusion" (level INFO) and on the progress bar.
        shape: (b, *d) to start from the prior; the dtype and device are those of the denoiser's parameters.
        x: the state (b, *d) at the grid's first time, instead of `shape`.
        steps: number of steps; None for the solver's default.
        nfe: most network calls, instead of `steps`; 20 for "auto".
        grid: a grid such as `karras(rho=7.0)`, or decreasing times in [0, 1] of shape (steps + 1,); None for the solver's own.
        noise: the source of all random numbers; `generator` (one stream) or `seeds` (one per sample) may be given instead.
        cond: condition handed to the denoiser.
        progress: whether to show a progress bar on stderr.
        callback: called with the `Step` reached, after each step.
        differentiable: whether to record gradients through all steps.

    Returns:
        The samples, (b, *d).

    Raises:
        ValueError: if neither or both of `shape` and `x` are given, the grid does not decrease within [0, 1], `steps` or `nfe`
            contradicts the grid, or the solver cannot run on it.
    """
    source = make_noise(noise, generator=generator, seeds=seeds)
    solver, times = _plan(denoiser, solver, steps, nfe, grid)
    state = _start(denoiser, times, shape, x, source)
    with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
        if isinstance(solver, Tableau):
            path = run(solver, denoiser, state, source, cond)
        else:
            path = solver.solve(denoiser, state, times, source, cond)
        for step in _with_bar(path, len(times) - 1, solver) if progress else path:
            state = step.x
            if callback is not None:
                callback(step)
    return state


def trajectory(
    denoiser: Denoiser,
    solver: Solver | Tableau | str = "auto",
    *,
    shape: Sequence[int] | None = None,
    x: Tensor | None = None,
    steps: int | None = None,
    nfe: int | None = None,
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
    solver, times = _plan(denoiser, solver, steps, nfe, grid)
    start = _start(denoiser, times, shape, x, source)
    ends, states = [float(times[0])], [start]

    def keep(step: Step) -> None:
        ends.append(step.t)
        states.append(step.x)
        if callback is not None:
            callback(step)

    again = None if isinstance(solver, Tableau) else times
    sample(denoiser, solver, x=start, grid=again, noise=source, cond=cond, progress=progress, callback=keep, differentiable=differentiable)
    return torch.tensor(ends, dtype=torch.float64), torch.stack(states)


def _plan(
    denoiser: Denoiser, solver: Solver | Tableau | str, steps: int | None, nfe: int | None, grid: Grid | Tensor | Sequence[float] | None
) -> tuple[Solver | Tableau, Tensor]:
    """The solver or table to run and its checked times (n + 1,)."""
    sde = denoiser.sde
    if not isinstance(sde, AffineSDE):
        raise ValueError(
            f"solvers need a drift f(t) x, got {sde!r}; take simulate_reverse(model), or integrate sde.reverse(...) with torchsde.sdeint"
        )
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"solvers ask a Denoiser for x0_hat, and {type(denoiser).__name__} is none; take simulate_reverse(model)")
    if isinstance(sde, LearnedSDE):
        raise ValueError(f"solvers remember their tables by process, and {sde} learns; take denoiser.under(denoiser.sde.frozen())")
    for name, value in (("steps", steps), ("nfe", nfe)):
        if value is not None:
            check_count(**{name: value})
    if isinstance(solver, Tableau):
        if steps is not None or nfe is not None or grid is not None:
            raise ValueError("a tableau has its own times; leave out steps, nfe and grid")
        return solver, solver.times
    if isinstance(solver, str):
        if solver != "auto":
            raise ValueError(f"solver must be 'auto', a solver such as DDIM() or a Tableau, got {solver!r}; build({solver!r}) makes one")
        if steps is not None or grid is not None:
            raise ValueError("solver='auto' chooses steps and grid itself; pass nfe=, or a solver")
        nfe = AUTO_NFE if nfe is None else nfe
        if nfe in denoiser.fitted:
            _log.info("auto: %r", denoiser.fitted[nfe])
            return denoiser.fitted[nfe], times_of_steps(sde, denoiser.fitted[nfe], None, None)
        solver, grid, steps = auto(sde, nfe)
        _log.info("auto: %r on %r with %d steps", solver, grid, steps)
        nfe = None
    if nfe is not None:
        if steps is not None or not (grid is None or isinstance(grid, Grid)):
            raise ValueError(f"nfe={nfe} sets the number of steps itself; pass it alone or with a grid such as karras(rho=7.0)")
        steps = steps_within(solver, sde, nfe, grid)
    return solver, times_of_steps(sde, solver, steps, grid)


def steps_within(solver: Solver, sde: AffineSDE, nfe: int, grid: Grid | None = None) -> int:
    """The largest number of steps in which a solver that is a table makes at most nfe network calls.

    Raises:
        ValueError: if one step takes more, the solver has no table, or has one for another number of calls.
    """

    if solver.nfe is not None:
        if nfe != solver.nfe or grid is not None:
            got = f"nfe={nfe}" if grid is None else f"grid={grid}"
            raise ValueError(
                f"{solver} is one table of {solver.nfe} network calls on its own times, got {got}; leave it out, or fit another"
            )
        return solver.default_steps

    def calls(n: int) -> int:
        return len(solver.tableau(sde, times_of_steps(sde, solver, n, grid)).calls)

    low, high = 0, nfe + 2 if sde.length is None else min(nfe + 2, sde.length + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if calls(middle) <= nfe else (low, middle)
    if not low:
        raise ValueError(f"{solver} makes {calls(1)} network calls in one step, got nfe={nfe}; allow more")
    return low


def times_of_steps(sde: AffineSDE, solver: Solver, steps: int | None, grid: Grid | Tensor | Sequence[float] | None) -> Tensor:
    """The checked times (n + 1,) that `steps` and `grid` mean for this solver."""
    if grid is None:
        grid = solver.default_grid
        if sde.length is not None and not solver.ends_at_zero:
            grid = grid(t_min=1 / sde.length)
    if isinstance(grid, Grid):
        if steps is None:
            steps = solver.default_steps if sde.length is None else min(solver.default_steps, sde.length)
        times = torch.tensor(_grid(grid, sde, steps), dtype=torch.float64)
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


@functools.lru_cache(maxsize=64)
def _grid(grid: Grid, sde: AffineSDE, steps: int) -> tuple[float, ...]:
    """The grid's times; a tuple, so that no solver can change what is remembered."""
    return tuple(grid(sde, steps).tolist())


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


def _with_bar(path: Iterator[Step], total: int, solver: Solver | Tableau) -> Iterator[Step]:
    from tqdm import tqdm

    name = type(solver).__name__ if isinstance(solver, Tableau) else repr(solver)
    yield from tqdm(path, desc=name, total=total, unit="step", leave=False)
