"""Time grids: n + 1 decreasing float64 times from t_max to t_min.

A grid is used in two ways: `karras(sde, 20, rho=5.0)` returns the times; `karras(rho=5.0)` returns the grid with its options set, to be
handed to `sample(grid=...)`, written in a configuration, printed and compared. Every grid takes `t_min` and `t_max`, by default the SDE's.

    uniform, quadratic        equal steps in t, sqrt(t)
    log_snr, karras           equal steps in log(alpha/sigma), (sigma/alpha)^(1/rho)
    vp_power, cosine          equal steps in the time of another process, matched at equal sigma/alpha
    chain_grid                nodes of a chain

Where the SDE has no noise left at t_min (a chain ends at t = 0), grids in sigma reach its first node in n - 1 steps and then t_min.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor

from sde_diffusion.sdes import VPSDE, AffineSDE, CosineVPSDE
from sde_diffusion.sdes.base import check_positive

_ROUNDING = 1e-6  # by which a rule may miss an end of its grid that it means


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
        for i, end in zip((0, -1), ends(sde, merged["t_min"], merged["t_max"]), strict=True):
            if abs(times[i].item() - end) < _ROUNDING:
                times[i] = end
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


def ends(sde: AffineSDE, t_min: float | None, t_max: float | None) -> tuple[float, float]:
    """(start, end) of a grid."""
    return sde.t_max if t_max is None else t_max, sde.t_min if t_min is None else t_min


def last_noise(sde: AffineSDE, end: float) -> float:
    """Where a grid that ends at `end` is last divided by its noise: `end`, or a chain's first node if there is none left at `end`."""
    return end if sde.sigma(end) > 0 or sde.length is None else 1 / sde.length


def _by_noise(
    sde: AffineSDE, n: int, t_min: float | None, t_max: float | None, to: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
) -> Tensor:
    """Equal steps of `to(lam)`, lam = log_snr; `back` is its inverse."""
    start, end = ends(sde, t_min, t_max)
    stop = last_noise(sde, end)
    extra = [] if stop == end else [torch.tensor([end], dtype=torch.float64)]
    if n == len(extra):
        return torch.tensor([start, end], dtype=torch.float64)
    low, high = (to(sde.log_snr(t)).item() for t in (start, stop))
    for t, value in ((start, low), (stop, high)):
        if not math.isfinite(value):
            raise ValueError(
                f"equal steps in noise cannot reach t={t:g}, where {sde} has log(alpha/sigma) = {sde.log_snr(t).item():g}; "
                "pass t_min > 0 or a smaller t_max"
            )
    times = sde.t_of_log_snr(back(torch.linspace(low, high, n + 1 - len(extra), dtype=torch.float64)))
    return torch.cat([times, *extra])


@grid
def uniform(sde: AffineSDE, n: int, *, t_min: float | None = None, t_max: float | None = None) -> Tensor:
    """Equal steps in t; on a chain with length = n, its nodes."""
    return torch.linspace(*ends(sde, t_min, t_max), n + 1, dtype=torch.float64)


@grid
def quadratic(sde: AffineSDE, n: int, *, t_min: float | None = None, t_max: float | None = None) -> Tensor:
    """Equal steps in sqrt(t): finer near the data (Song et al. 2020, arXiv 2010.02502)."""
    start, end = ends(sde, t_min, t_max)
    return torch.linspace(start**0.5, end**0.5, n + 1, dtype=torch.float64) ** 2


@grid
def log_snr(sde: AffineSDE, n: int, *, t_min: float | None = None, t_max: float | None = None) -> Tensor:
    """Equal steps in log(alpha/sigma) (Lu et al. 2022, arXiv 2206.00927); also named `exponential`."""
    return _by_noise(sde, n, t_min, t_max, lambda lam: lam, lambda lam: lam)


exponential = log_snr
"""k-diffusion's name for `log_snr`: sigma/alpha in geometric progression."""


@grid
def karras(sde: AffineSDE, n: int, *, rho: float = 7.0, t_min: float | None = None, t_max: float | None = None) -> Tensor:
    """Equal steps in (sigma/alpha)^(1/rho) (Karras et al. 2022, arXiv 2206.00364, eq 5); rho > 0, larger is finer near the data."""
    check_positive(rho=rho)
    return _by_noise(sde, n, t_min, t_max, lambda lam: torch.exp(-lam / rho), lambda root: -rho * torch.log(root))


sigma_uniform = karras(rho=1.0)
"""Equal steps in sigma/alpha."""


@grid
def vp_power(sde: AffineSDE, n: int, *, R: float = 2.0, t_min: float | None = None, t_max: float | None = None) -> Tensor:
    """Equal steps in tau^(1/R), tau the time at which `VPSDE()` has the same sigma/alpha; R > 0, larger is finer near the data.

    With R = 1 the grid is the one that VP models are usually sampled on, whatever the SDE. Noisier times than VP's last continue its
    formula to tau > 1.
    """
    check_positive(R=R)
    vp = VPSDE()
    return _by_noise(sde, n, t_min, t_max, lambda lam: vp.t_of_log_snr(lam) ** (1 / R), lambda root: vp.log_snr(root**R))


@grid
def cosine(sde: AffineSDE, n: int, *, s: float = 0.008, t_min: float | None = None, t_max: float | None = None) -> Tensor:
    """Equal steps in the time at which `CosineVPSDE(s)` has the same sigma/alpha (Nichol & Dhariwal 2021, arXiv 2102.09672).

    For s -> 0 that time is the angle arctan(sigma/alpha).
    """
    process = CosineVPSDE(s)
    return _by_noise(sde, n, t_min, t_max, process.t_of_log_snr, process.log_snr)


@grid
def chain_grid(
    sde: AffineSDE,
    n: int,
    *,
    spacing: str = "linear",
    length: int | None = None,
    steps_offset: int = 0,
    t_min: float | None = None,
    t_max: float | None = None,
) -> Tensor:
    """n steps between nodes t = i/length of a chain, the last to t_min.

    "linear" and "quadratic" (Song et al. 2020, arXiv 2010.02502) run from t_max to t_min in equal steps of i or sqrt(i), rounded. The
    others are diffusers' conventions, whose timestep k is the node k + 1; they cut the chain into n parts and take the last node of each
    ("trailing") or the first ("leading"). "leading" thus begins below t_max, where the prior is not the law of the state (Lin et al. 2024,
    arXiv 2305.08891): `sample` then asks for `x=`.

    Args of the grid:
        spacing: "linear", "quadratic", "trailing" or "leading".
        length: steps of the whole chain, >= n; by default the SDE's own.
        steps_offset: added to the nodes of "leading", >= 0; Stable Diffusion has 1.
    """
    length = sde.length if length is None else length
    if length is None:
        raise ValueError(f"{sde} is not a chain; pass chain_grid(length=1000), or use uniform")
    if n > length:
        raise ValueError(f"a chain of {length} steps has no subset of {n} steps; use at most {length}")
    if spacing not in ("linear", "quadratic", "trailing", "leading"):
        raise ValueError(f"spacing must be 'linear', 'quadratic', 'trailing' or 'leading', got {spacing!r}")
    if steps_offset and (spacing != "leading" or steps_offset < 0):
        raise ValueError(f"steps_offset must be 0, or positive with spacing='leading', got {steps_offset} with {spacing!r}")
    start, end = (t * length for t in ends(sde, t_min, t_max))
    if spacing in ("linear", "quadratic"):
        p = 1 if spacing == "linear" else 2
        nodes = torch.round(torch.linspace(start ** (1 / p), max(end, 0.0) ** (1 / p), n + 1, dtype=torch.float64) ** p)
        nodes = torch.maximum(nodes, torch.arange(n, -1, -1, dtype=torch.float64))  # rounding must not repeat a node
        nodes[0] = start
    elif spacing == "trailing":
        nodes = torch.round(start - start / n * torch.arange(n + 1, dtype=torch.float64))
    else:
        nodes = torch.arange(n - 1, -2, -1, dtype=torch.float64) * (round(start) // n) + 1 + steps_offset
    nodes[-1] = end
    if not (nodes[0] <= start and nodes[-2] > end):
        raise ValueError(
            f"{spacing!r} nodes {nodes[0]:g}, ..., {nodes[-2]:g} of {length} do not lie between t_max (node {start:g}) and "
            f"t_min (node {end:g}); use fewer steps, or another t_min or steps_offset"
        )
    return nodes / length
