"""Sampling any process, affine or not, from its score alone.

    x_{i+1} = x_i - (drift - (1 + eta^2)/2 g^2 score) h + eta g sqrt(h) z,    h = t_i - t_{i+1}      (1)

Euler and Maruyama's method for the reverse-time process (Anderson 1982; Song et al. 2021, arXiv 2011.13456), coefficients taken at
(x_i, t_i). For affine processes `sample(denoiser, EulerMaruyama(eta))` makes the same states from the same noise, and better solvers exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers.score_network import ScoreModel
from sde_diffusion.noise import Noise, make_noise
from sde_diffusion.sdes import SDE
from sde_diffusion.sdes.base import check_count
from sde_diffusion.shapes import as_time, expand
from sde_diffusion.solvers.grids import check_grid


@torch.no_grad()
def simulate_reverse(
    model: ScoreModel,
    *,
    shape: Sequence[int] | None = None,
    x: Tensor | None = None,
    steps: int | None = None,
    grid: Tensor | Sequence[float] | None = None,
    eta: float = 1.0,
    path: bool = False,
    cond: Any = None,
    noise: Noise | None = None,
    generator: torch.Generator | None = None,
    seeds: Iterable[int] | None = None,
) -> Tensor:
    """Draws samples by (1) from the prior, or moves given states.

    Args:
        model: the score and, as `model.sde`, the process.
        shape: (b, *d) to start from the process' prior, in float32 on the CPU.
        x: states (b, *d) at the grid's first time, instead of `shape`; they give dtype and device.
        steps: number of equal steps from t_max to t_min; 500 if no grid is given.
        grid: decreasing times in [0, 1] instead, (steps + 1,).
        eta: 1 for the reverse SDE, 0 for the probability-flow ODE, between or larger.
        path: whether to return the states at all times of the grid, (steps + 1, b, *d), instead of the last, (b, *d).
        cond: condition handed to the model.
        noise: the source of all random numbers; or `generator` or `seeds`.

    Raises:
        ValueError: if neither or both of `shape` and `x`, or both of `steps` and `grid` are given, for steps < 1, a grid that does not
            decrease or eta < 0.
        ArithmeticError: if a path runs away to infinity.
    """
    if (shape is None) == (x is None):
        raise ValueError(f"pass shape=(b, *d) or states x=, one of them; got shape={shape} and {'no x' if x is None else 'x too'}")
    draw = make_noise(noise, generator=generator, seeds=seeds)
    times = _times(model.sde, steps, grid)
    reverse = model.sde.reverse(model, eta, cond=cond)
    if x is None:
        x = model.sde.prior_sample(tuple(shape or ()), draw)
    states = [x]
    for t, s in zip(times[:-1].to(x.device), times[1:].to(x.device), strict=True):
        h = t - s
        x = x - reverse.drift(x, t) * expand(h, x)
        if eta > 0:
            x = x + expand(eta * model.sde.diffusion(t) * h.sqrt(), x) * draw(x)
        states = [*states, x] if path else [x]
    if not x.isfinite().all():
        raise ArithmeticError(f"reverse paths of {model.sde} ran away to infinity in {len(times) - 1} steps; take more, or a finer grid")
    return torch.stack(states) if path else x


def _times(sde: SDE, steps: int | None, grid: Tensor | Sequence[float] | None) -> Tensor:
    if grid is None:
        steps = 500 if steps is None else steps
        check_count(steps=steps)
        return torch.linspace(sde.t_max, sde.t_min, steps + 1, dtype=torch.float64)
    if steps is not None:
        raise ValueError(f"a grid has its own number of steps, got steps={steps} too; pass one of them")
    times = as_time(grid if isinstance(grid, Tensor) else torch.tensor(list(grid), dtype=torch.float64)).double().cpu()
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"a grid has shape (steps + 1,) with at least one step, got {tuple(times.shape)}")
    check_grid(times)
    return times
