"""Which solver to use for a model: error against network calls, measured on the model itself.

Deterministic solvers are compared path by path with the flow of the same starts. For every solver the law of the samples is compared too,
by the sliced Wasserstein distance, averaged over directions u on the sphere (Bonneel et al. 2015),

    SW2^2 = E_u W2^2(u . X, u . Y)                                                               (1)

whose value for two samples of one law, the floor, is what chance alone leaves.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser, NFECounter
from sde_diffusion.noise import Stream
from sde_diffusion.sdes.base import check_count
from sde_diffusion.solvers.adaptive import AdaptiveODE
from sde_diffusion.solvers.base import Solver
from sde_diffusion.solvers.first_order import DDIM, Ancestral, EulerMaruyama
from sde_diffusion.solvers.grids import Grid, karras, log_snr, uniform, vp_power
from sde_diffusion.solvers.multistep import DEIS, IPNDM, AdamsBashforth, DPMSolverPP, SASolver, UniPC
from sde_diffusion.solvers.runge_kutta import DPMSolver, Heun, Midpoint
from sde_diffusion.solvers.sampling import sample, steps_within

SOLVERS: tuple[Solver, ...] = (
    EulerMaruyama(),
    Ancestral(),
    DDIM(),
    Heun(),
    Midpoint(),
    DPMSolver(3),
    DPMSolverPP(2),
    DPMSolverPP(3),
    DPMSolverPP(2, stochastic=True),
    SASolver(2),
    UniPC(3),
    DEIS(3),
    IPNDM(4),
    AdamsBashforth(4),
)
GRIDS: tuple[Grid, ...] = (uniform, log_snr, karras, vp_power)

_DIRECTIONS = 128


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One solver on one grid.

    Args:
        solver: the solver, or "auto".
        grid: the grid, or "auto".
        budget: network calls allowed.
        nfe: network calls counted.
        rms: root mean square over samples and coordinates of the distance to the flow's end; None for a solver that adds noise.
        median: median over samples of a sample's own root mean square, likewise.
        distance: (1) to the reference.
        seconds: wall time.
    """

    solver: Solver | str
    grid: Grid | str
    budget: int
    nfe: int
    rms: float | None
    median: float | None
    distance: float
    seconds: float

    @property
    def error(self) -> float:
        """The path's error, or the law's where there is none; infinite where the solver diverged."""
        error = self.distance if self.rms is None else self.rms
        return error if math.isfinite(error) else math.inf


@dataclasses.dataclass(frozen=True)
class WorkPrecision:
    """What `compare` measured; prints as a table of each solver on its best grid.

    Args:
        measurements: all of them.
        floor: the distance (1) that a perfect solver has.
    """

    measurements: tuple[Measurement, ...]
    floor: float

    def best(self) -> list[Measurement]:
        """For each solver and budget the grid with the smallest error."""
        best: dict[tuple[str, int], Measurement] = {}
        for m in self.measurements:
            key = str(m.solver), m.budget
            if key not in best or m.error < best[key].error:
                best[key] = m
        return list(best.values())

    def __str__(self) -> str:
        rows = [("solver", "grid", "nfe", "rms", "median", "distance", "seconds")]
        for m in sorted(self.best(), key=lambda m: (m.budget, m.rms is None, m.error)):
            path = ("-", "-") if m.rms is None or m.median is None else (f"{m.rms:.3g}", f"{m.median:.3g}")
            rows.append((str(m.solver), str(m.grid), str(m.nfe), *path, f"{m.distance:.3g}", f"{m.seconds:.3g}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, f"distance of a perfect solver: {self.floor:.3g}"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all measurements as CSV.

        Raises:
            FileExistsError: if there is a file at `path`.
        """
        with open(path, "x", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*(field.name for field in dataclasses.fields(Measurement)), "floor"])
            for m in self.measurements:
                writer.writerow([*(getattr(m, field.name) for field in dataclasses.fields(m)), self.floor])


def compare(
    denoiser: Denoiser,
    *,
    budgets: Sequence[int] = (5, 10, 20, 50),
    reference: Tensor | None = None,
    shape: Sequence[int] | None = None,
    solvers: Iterable[Solver] = SOLVERS,
    grids: Iterable[Grid] = GRIDS,
    flow: Solver | None = None,
    cond: Any = None,
    seed: int = 0,
) -> WorkPrecision:
    """Measures solvers on a model: error against network calls, with what `sample` takes for "auto" among them.

    Args:
        denoiser: the model.
        budgets: network calls allowed, >= 1 each; a solver whose step takes more is left out there.
        reference: data (b, *d), to whose law the samples' is compared; the floor is then that of the model's own flow. By default the
            ends of the flow from other starts, whose distance is chance alone.
        shape: (b, *d) of the samples, where there is no reference.
        solvers: those to measure; each must be a table.
        grids: tried with each; one that the process does not have is left out.
        flow: the solver that finds the ends of the flow; by default `AdaptiveODE` at a tolerance that the dtype bears.
        cond: condition handed to the denoiser.
        seed: of the starts and of all noise.

    Raises:
        ValueError: for a budget that is none, or unless one of reference and shape is given.
    """
    for budget in budgets:
        check_count(budget=budget)
    if (reference is None) == (shape is None):
        raise ValueError("pass either reference=data (b, *d) to compare with, or shape=(b, *d)")
    sde, grids, like = denoiser.sde, tuple(grids), denoiser.like
    size = tuple(shape or ()) if reference is None else tuple(reference.shape)
    if flow is None:
        tolerance = 1e-8 if like.dtype == torch.float64 else 1e-5
        flow = AdaptiveODE(rtol=tolerance, atol=tolerance)

    def start(seed: int) -> Tensor:
        return sde.prior_sample(size, generator=torch.Generator().manual_seed(seed), device=like.device, dtype=like.dtype)

    x = start(seed)
    end = sample(denoiser, flow, x=x, cond=cond)
    law = sample(denoiser, flow, x=start(seed + 1), cond=cond) if reference is None else reference
    counter, measurements = NFECounter(denoiser), []
    jobs: list[tuple[Solver | str, Grid | str]] = [("auto", "auto"), *((s, g) for s in solvers for g in grids)]
    for budget in budgets:
        for solver, grid in jobs:
            options: dict[str, Any] = {"nfe": budget}
            if isinstance(solver, Solver) and isinstance(grid, Grid):
                try:
                    options = {"grid": grid, "steps": steps_within(solver, sde, budget, grid)}
                except ValueError:  # one step takes more, or the process has no such grid
                    continue
            counter.nfe, noise, clock = 0, _Counting(seed + 2), time.perf_counter()
            samples = sample(counter, solver, x=x, noise=noise, cond=cond, **options)
            seconds = time.perf_counter() - clock
            squares = (samples - end).double().square().flatten(1).mean(1)
            rms, median = (None, None) if noise.used else (squares.mean().sqrt().item(), squares.sqrt().median().item())
            distance = sliced_wasserstein(samples, law)
            measurements.append(Measurement(solver, grid, budget, counter.nfe, rms, median, distance, seconds))
    return WorkPrecision(tuple(measurements), sliced_wasserstein(end, law))


class _Counting(Stream):
    """A stream that knows whether it was asked."""

    used = False

    def __init__(self, seed: int) -> None:
        super().__init__(torch.Generator().manual_seed(seed))

    def __call__(self, x: Tensor) -> Tensor:
        object.__setattr__(self, "used", True)
        return super().__call__(x)


def sliced_wasserstein(x: Tensor, y: Tensor) -> float:
    """SW2 (1) between two samples of equal size (b, *d), over 128 fixed directions, times sqrt(d): in one dimension W2.

    Raises:
        ValueError: if the shapes differ.
    """
    if x.shape != y.shape:
        raise ValueError(f"the samples must have one shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    x, y = (a.double().flatten(1).cpu() for a in (x, y))
    u = torch.randn(x.shape[1], _DIRECTIONS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u = u / u.norm(dim=0)
    return (((x @ u).sort(0).values - (y @ u).sort(0).values).square().mean() * x.shape[1]).sqrt().item()
