"""Forward simulation of any process by Euler and Maruyama's method.

    x_{k+1} = x_k + drift(x_k, t_k) h + diffusion(t_k) sqrt(h) z_k,    t_k = start + k h,    h = (t - start)/n                  (1)

A process that is not affine has no kernel to draw x_t | x_0 from at once; (1) has weak order 1 (Kloeden & Platen 1992, section 9.7).
Each sample may have an end t, and so a step h, of its own: n steps bring a whole batch to as many different times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from sde_diffusion.noise import Noise, make_noise
from sde_diffusion.sdes.base import SDE, check_count
from sde_diffusion.shapes import Time, as_time, check_time_shape, expand


def simulate(
    sde: SDE,
    x0: Tensor,
    t: Time,
    *,
    start: Time = 0.0,
    steps: int = 100,
    substeps: int = 1,
    path: bool = False,
    noise: Noise | None = None,
    generator: torch.Generator | None = None,
    seeds: Iterable[int] | None = None,
) -> Tensor:
    """States at time t of paths (1) that leave x0 at time `start`.

    Args:
        sde: the process.
        x0: states (b, *d) at time `start`.
        t: where paths end, () or (b,), from `start` to the process' t_max.
        start: where they begin, () or (b,).
        steps: number of steps, at least 1.
        substeps: number of steps (1) that each of them consists of, at least 1; only the ends of `steps` appear in a path.
        path: whether to return the states after 0, 1, ..., steps steps, (steps + 1, b, *d), instead of the last, (b, *d).
        noise: the source of z; or `generator` or `seeds`.

    Raises:
        ValueError: for numbers of steps less than 1, and times of another shape or order.
        ArithmeticError: if a path runs away to infinity.
    """
    check_count(steps=steps, substeps=substeps)
    t, start = as_time(t, x0), as_time(start, x0)
    for time in (t, start):
        check_time_shape(time, x0)
    if not ((start <= t) & (t <= sde.t_max)).all():
        raise ValueError(
            f"paths run from start to t <= t_max={sde.t_max} of {sde}, got start={start.tolist()} and t={t.tolist()}; "
            "reverse-time paths are made by simulate_reverse"
        )
    draw = make_noise(noise, generator=generator, seeds=seeds)
    draws = (draw(x0) for _ in range(steps * substeps))
    states = [x0]
    for i, x in enumerate(euler_maruyama(sde, x0, start, (t - start) / (steps * substeps), draws), start=1):
        if i % substeps == 0:
            states = [*states, x] if path else [x]
    if not states[-1].isfinite().all():
        raise ArithmeticError(f"paths of {sde} ran away to infinity in {steps * substeps} steps; take more steps, or scale the data down")
    return torch.stack(states) if path else states[-1]


def euler_maruyama(sde: SDE, x: Tensor, start: Tensor, h: Tensor, draws: Iterable[Tensor]) -> Iterator[Tensor]:
    """The states after each step (1), one per draw, for `start` and steps h of shape () or (b,)."""
    for k, z in enumerate(draws):
        x = euler_step(sde, x, start + k * h, h, z)
        yield x


def euler_step(sde: SDE, x: Tensor, t: Tensor, h: Tensor, z: Tensor) -> Tensor:
    """One step (1) from x at times t, of length h, both () or (b,)."""
    return x + sde.drift(x, t) * expand(h, x) + expand(sde.diffusion(t) * h.sqrt(), x) * z
