"""Running a solver from noise to data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.noise import Noise, make_noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.solvers.base import Solver, Step
from sde_diffusion.solvers.grids import Grid, check_grid

_PRIOR_TIME = 0.01  # how far from t_max a grid may start and still take the prior for p_t


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


@functools.lru_cache(maxsize=16)
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


def _with_bar(path: Iterator[Step], total: int) -> Iterator[Step]:
    from tqdm import tqdm

    yield from tqdm(path, total=total, unit="step", leave=False)
