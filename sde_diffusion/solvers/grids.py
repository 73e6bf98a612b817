"""Time grids: n + 1 decreasing float64 times from t_max to t_min.

A grid is used in two ways: `karras(sde, 20, rho=5.0)` returns the times; `karras(rho=5.0)` returns the grid with its options set, to be
handed to `sample(grid=...)`, written in a configuration, printed and compared. Every grid takes `t_min` and `t_max`, by default the SDE's.
Where the SDE has no noise left at t_min (a chain ends at t = 0), grids in sigma reach its first node in n - 1 steps and then t_min.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Any, overload

import torch
from torch import Tensor

from sde_diffusion.sdes import AffineSDE


@dataclasses.dataclass(frozen=True, repr=False)
class Grid:
    """A rule that makes times, with its options.

    Raises:
        TypeError: for an option that the rule does not have.
    """

    rule: Callable[..., Tensor]
    options: tuple[tuple[str, Any], ...]

    @overload
    def __call__(self, sde: AffineSDE, n: int, /, **options: Any) -> Tensor: ...
    @overload
    def __call__(self, /, **options: Any) -> Grid: ...
    def __call__(self, sde: AffineSDE | None = None, n: int | None = None, /, **options: Any) -> Tensor | Grid:
        merged = {**dict(self.options), **options}
        if len(merged) > len(self.options) or (sde is None) != (n is None):
            known = ", ".join(dict(self.options))
            given = [repr(a) for a in (sde, n) if a is not None] + [f"{name}={value!r}" for name, value in options.items()]
            raise TypeError(f"{self.rule.__name__} takes (sde, n) and the options {known}, got ({', '.join(given)})")
        if sde is None or n is None:
            return Grid(self.rule, tuple(merged.items()))
        if n < 1:
            raise ValueError(f"a grid needs at least 1 step, got n={n}")
        times: Tensor = self.rule(sde, n, **merged)
        times[0] = sde.t_max if merged["t_max"] is None else merged["t_max"]  # exactly, not to rounding
        times[-1] = sde.t_min if merged["t_min"] is None else merged["t_min"]
        check_grid(times)
        return times

    def __repr__(self) -> str:
        return f"{self.rule.__name__}({', '.join(f'{k}={v!r}' for k, v in self.options if v is not None)})"


def grid(rule: Callable[..., Tensor]) -> Grid:
    """Makes a function (sde, n, *, options) -> times a Grid."""
    made = Grid(rule, tuple((p.name, p.default) for p in inspect.signature(rule).parameters.values() if p.kind is p.KEYWORD_ONLY))
    object.__setattr__(made, "__doc__", rule.__doc__)
    return made


def check_grid(times: Tensor) -> None:
    """Raises ValueError unless the times decrease strictly within [0, 1]."""
    values = times.tolist()
    for t in values:
        if not 0 <= t <= 1:
            raise ValueError(f"times must lie in [0, 1] (0 = data, 1 = noise), got {t:g}; divide by the number of training steps?")
    for i, (t, s) in enumerate(itertools.pairwise(values)):
        if not s < t:
            hint = "; pass grid.flip(0)?" if values == sorted(values) else ""
            raise ValueError(f"grid must decrease from noise to data, got t[{i}]={t:g} <= t[{i + 1}]={s:g}{hint}")


def _ends(sde: AffineSDE, t_min: float | None, t_max: float | None) -> tuple[float, float]:
    return sde.t_max if t_max is None else t_max, sde.t_min if t_min is None else t_min


def _by_noise(
    sde: AffineSDE, n: int, t_min: float | None, t_max: float | None, to: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
) -> Tensor:
    """Equal steps of `to(lam)`, lam = log_snr; `back` is its inverse."""
    start, end = _ends(sde, t_min, t_max)
    stop = end if sde.sigma(end) > 0 or sde.length is None else 1 / sde.length
    extra = [] if stop == end else [torch.tensor([end], dtype=torch.float64)]
    if n == len(extra):
        return torch.tensor([start, end], dtype=torch.float64)
    low, high = (to(sde.log_snr(t)).item() for t in (start, stop))
    times = sde.t_of_log_snr(back(torch.linspace(low, high, n + 1 - len(extra), dtype=torch.float64)))
    return torch.cat([times, *extra])


@grid
def uniform(sde: AffineSDE, n: int, *, t_min: float | None = None, t_max: float | None = None) -> Tensor:
    """Equal steps in t; on a chain with length = n, its nodes."""
    return torch.linspace(*_ends(sde, t_min, t_max), n + 1, dtype=torch.float64)


@grid
def quadratic(sde: AffineSDE, n: int, *, t_min: float | None = None, t_max: float | None = None) -> Tensor:
    """Equal steps in sqrt(t): finer near the data (Song et al. 2020, arXiv 2010.02502)."""
    start, end = _ends(sde, t_min, t_max)
    return torch.linspace(start**0.5, end**0.5, n + 1, dtype=torch.float64) ** 2


@grid
def log_snr(sde: AffineSDE, n: int, *, t_min: float | None = None, t_max: float | None = None) -> Tensor:
    """Equal steps in log(alpha/sigma) (Lu et al. 2022, arXiv 2206.00927)."""
    return _by_noise(sde, n, t_min, t_max, lambda lam: lam, lambda lam: lam)


@grid
def karras(sde: AffineSDE, n: int, *, rho: float = 7.0, t_min: float | None = None, t_max: float | None = None) -> Tensor:
    """Equal steps in (sigma/alpha)^(1/rho) (Karras et al. 2022, arXiv 2206.00364, eq 5); rho > 0, larger is finer near the data."""
    if not rho > 0:
        raise ValueError(f"rho must be positive, got {rho}")
    return _by_noise(sde, n, t_min, t_max, lambda lam: torch.exp(-lam / rho), lambda root: -rho * torch.log(root))


@grid
def chain_grid(
    sde: AffineSDE,
    n: int,
    *,
    spacing: str = "linear",
    length: int | None = None,
    t_min: float | None = None,
    t_max: float | None = None,
) -> Tensor:
    """n steps between nodes t = i/length of a chain, the last to t_min (Song et al. 2020, arXiv 2010.02502).

    Args of the grid:
        spacing: "linear" or "quadratic" in i, rounded.
        length: steps of the whole chain, >= n; by default the SDE's own.
    """
    length = sde.length if length is None else length
    if length is None:
        raise ValueError(f"{sde} is not a chain; pass chain_grid(length=1000), or use uniform")
    if n > length:
        raise ValueError(f"a chain of {length} steps has no subset of {n} steps; use at most {length}")
    powers: Mapping[str, int] = {"linear": 1, "quadratic": 2}
    if spacing not in powers:
        raise ValueError(f"spacing must be 'linear' or 'quadratic', got {spacing!r}")
    start, end = (t * length for t in _ends(sde, t_min, t_max))
    p = powers[spacing]
    nodes = torch.round(torch.linspace(start ** (1 / p), max(end, 0.0) ** (1 / p), n + 1, dtype=torch.float64) ** p)
    nodes = torch.maximum(nodes, torch.arange(n, -1, -1, dtype=torch.float64))  # rounding must not repeat a node
    return nodes / length
