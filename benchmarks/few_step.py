"""How much smaller is the error of a solver fitted to the model than that of the best of all others?

    python benchmarks/few_step.py                                          (cells: exact scores, one thread)
    python benchmarks/few_step.py --parts mixtures --mixtures 10
    python benchmarks/few_step.py --parts trajectories transfer digits --out runs/few_step

The error is that of x/alpha against the flow of fresh starts, solved to 1e-10 (the digits network: `AdaptiveODE` at 1e-6 on its float64
copy): root mean square over the paths, median over the paths of a path's own, and root mean square over the 99 % smallest. In each cell
(problem, range, calls) each competitor counts on its best grid and each figure has its own winner: our own solvers, those of diffusers and
k-diffusion through _peers.py, and on ring2 and mix64 of seed 0 the best of 161 to 352 configurations (`BEST` of auto.py and FIVE).
A sampler of another library that knows one kind of process only is run on the one of its kind with the same levels sigma/alpha. `fit` gets
none of these starts. Exit status 1 if a cell's ratio of ours to the best is above 0.5.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _peers import diffusers_scheduler, k_diffusion, k_sampler, version
from _problems import mix64, ring
from auto import BEST, RANGES, flow
from auto import BUDGETS as BEST_BUDGETS
from torch import Tensor

import sde_diffusion as sd
from sde_diffusion import evaluation, training
from sde_diffusion.data import load

BUDGETS = (5, 8, 10, 15, 20)
REACH = 0.5
POOL = 32  # starts per trajectory
FITTED = {"ring2": (1024, 300), "mix64": (512, 150), "mix256": (256, 100), "digits": (128, 100)}  # trajectories, iterations
PER_CALL = 15  # iterations at least, where a call is no network's
FIVE = {  # BEST at 5 calls
    ("mix64", "VP"): (1.73e-1, 1.28e-2),
    ("mix64", "EDM"): (1.45e-1, 1.46e-2),
    ("ring2", "VP"): (1.41e-2, 6.26e-3),
    ("ring2", "EDM"): (2.31e-2, 1.49e-2),
}
GRIDS = (*(sd.vp_power(R=R) for R in (1, 1.5, 2, 3)), sd.karras(rho=7.0), sd.karras(rho=5.0), sd.log_snr, sd.uniform)
_BASES = (sd.IPNDM(3), sd.AdamsBashforth(3, "epsilon"))
SOLVERS: tuple[sd.Solver, ...] = (
    *(sd.AdamsBashforth(order, form) for order in (2, 3, 4) for form in ("velocity", "epsilon", "x0")),
    *(sd.IPNDM(order) for order in (2, 3, 4)),
    *(sd.UniPC(order, form=form) for order in (2, 3) for form in ("epsilon", "x0")),
    *(sd.DEIS(order) for order in (2, 3)),
    *(sd.DPMSolverPP(order) for order in (2, 3)),
    *(sd.DPMSolver(order) for order in (2, 3)),
    *(sd.AnalyticFirstStep(base) for base in _BASES),
    sd.Heun(),
    sd.DDIM(),
)
# (library, name, options, calls in a step, kind of process it knows)
PEERS: tuple[tuple[str, str, dict[str, object], int, str], ...] = (
    *(
        ("diffusers", "DPMSolverMultistep", {"solver_order": order, "lower_order_final": final, "final_sigmas_type": "zero"}, 1, "VP")
        for order in (2, 3)
        for final in (False, True)
    ),
    *(("diffusers", "UniPCMultistep", {"solver_order": order, "lower_order_final": False}, 1, "VP") for order in (2, 3)),
    ("diffusers", "DEISMultistep", {"solver_order": 3, "lower_order_final": False}, 1, "VP"),
    ("diffusers", "EulerDiscrete", {}, 1, "VP"),
    ("diffusers", "HeunDiscrete", {}, 2, "VP"),
    ("diffusers", "KDPM2Discrete", {}, 2, "VP"),
    ("diffusers", "LMSDiscrete", {}, 1, "VP"),
    *(("diffusers", "EDMDPMSolverMultistep", {"solver_order": order, "lower_order_final": False}, 1, "EDM") for order in (2, 3)),
    ("k_diffusion", "dpmpp_2m", {}, 1, "EDM"),
    ("k_diffusion", "dpmpp_3m_sde", {"eta": 0.0}, 1, "EDM"),
    ("k_diffusion", "lms", {"order": 4}, 1, "EDM"),
    ("k_diffusion", "heun", {}, 2, "EDM"),
    ("k_diffusion", "dpm_2", {}, 2, "EDM"),
)

Run = Callable[[sd.Denoiser, Tensor], Tensor]  # (denoiser, x) -> x/alpha at the end
Panel = Callable[[int], "Iterator[tuple[str, Run]] | Sequence[tuple[str, Run]]"]


class Figures(NamedTuple):
    """Errors over the paths: root mean square, median, root mean square of the 99 % smallest."""

    rms: float
    median: float
    trimmed: float

    def over(self, other: Figures) -> Figures:
        return Figures(*(a / b for a, b in zip(self, other, strict=True)))

    def __str__(self) -> str:
        return " ".join(f"{value:9.3g}" for value in self)


def figures(reached: Tensor, end: Tensor) -> Figures:
    """Infinite where a path is."""
    squares = (reached.double() - end.double()).square().flatten(1).mean(1).nan_to_num(nan=torch.inf).sort().values
    trimmed = squares[: max(1, round(0.99 * len(squares)))]
    return Figures(squares.mean().sqrt().item(), squares.sqrt().median().item(), trimmed.mean().sqrt().item())


def problem(name: str, sde: sd.AffineSDE, seed: int) -> sd.GaussianMixtureDenoiser:
    """ring2, mix64 or mix256; the seed draws the modes of the mixtures."""
    if name == "ring2":
        return ring(sde, radius=4.0, std=0.3, standardized=True)
    return mix64(sde, seed=seed, dimension=int(name.removeprefix("mix")))


def starts(sde: sd.AffineSDE, shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return sde.prior_sample(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ours(denoiser: sd.Denoiser, x: Tensor, solver: sd.Solver | str, nfe: int, grid: sd.Grid | None = None) -> Tensor:
    """x/alpha at the end, of at most nfe calls."""
    counter, sde = sd.NFECounter(denoiser), denoiser.sde
    if solver == "auto":  # the choice for any model, not one that was fitted to this
        solver, grid, _ = sd.auto(sde, nfe)
    options = {} if isinstance(solver, sd.FittedSolver) else {"nfe": nfe, "grid": grid}
    reached = sd.sample(counter, solver, x=x, **options)
    assert counter.nfe <= nfe, (solver, counter.nfe)
    return reached / sde.alpha(sde.t_min).to(reached)


def theirs(denoiser: sd.Denoiser, x: Tensor, run: Callable[..., Tensor], kind: str, steps: int, grid: sd.Grid, nfe: int) -> Tensor:
    """x/alpha at the end of another library's sampler, on the process of its kind with the same levels."""
    sde = denoiser.sde
    other = sd.VPSDE(t_min=1e-6) if kind == "VP" else sd.EDMSDE(sigma_min=1e-4, sigma_max=1e3)
    if isinstance(sde, type(other)):
        other = sde
    times = grid(sde, steps)
    moved = times if other is sde else other.t_of_log_snr(sde.log_snr(times))
    counter = sd.NFECounter(denoiser if other is sde else denoiser.under(other))
    reached = run(counter, x / sde.alpha(times[0]).to(x) * other.alpha(moved[0]).to(x), moved, sd.Stream(torch.Generator().manual_seed(0)))
    if counter.nfe > nfe:
        raise ValueError(f"{counter.nfe} calls, not {nfe}")
    return reached / other.alpha(moved[-1]).to(reached)


@functools.cache
def installed(library: str) -> bool:
    try:
        k_diffusion() if library == "k_diffusion" else __import__(library)
    except ImportError as error:
        print(f"left out: {library}, {error}")
        return False
    return True


def competitors(nfe: int, grids: Sequence[sd.Grid] = GRIDS) -> Iterator[tuple[str, Run]]:
    """All others at this number of calls."""
    yield "auto", functools.partial(ours, solver="auto", nfe=nfe)
    for grid in grids:
        for solver in SOLVERS:
            yield f"{solver} on {grid}", functools.partial(ours, solver=solver, nfe=nfe, grid=grid)
        for library, name, options, calls, kind in PEERS:
            if installed(library) and nfe >= calls:
                run = k_sampler(name, **options) if library == "k_diffusion" else diffusers_scheduler(name, **options)
                partial = functools.partial(theirs, run=run, kind=kind, steps=nfe // calls, grid=grid, nfe=nfe)
                yield f"{library} {name}{tuple(options.values()) if options else ''} on {grid}", partial


def measure(
    denoiser: sd.Denoiser, x: Tensor, end: Tensor, panel: Iterator[tuple[str, Run]] | Sequence[tuple[str, Run]]
) -> dict[str, Figures]:
    """Figures of each competitor that can run the cell; why the others cannot is printed once per name."""

    def one(name: str, run: Run) -> Figures | None:
        try:
            return figures(run(denoiser, x), end)
        except (ValueError, RuntimeError, IndexError, AssertionError) as error:
            left_out(name.partition(" on ")[0], f"{type(error).__name__}: {error}"[:120])
            return None

    found = ((name, one(name, run)) for name, run in panel)
    return {name: result for name, result in found if result is not None}


@functools.cache
def left_out(name: str, why: str) -> None:
    print(f"left out: {name}, {why}", flush=True)


def best_of(found: dict[str, Figures]) -> list[tuple[str, float]]:
    """The winner by each figure, and its value."""
    return [min(((name, f[i]) for name, f in found.items()), key=lambda pair: pair[1]) for i in range(3)]


def fitted(
    name: str, denoiser: sd.Denoiser, budgets: Sequence[int], event: Sequence[int], options: argparse.Namespace, n: int | None = None
) -> dict[int, tuple[sd.FittedSolver, float]]:
    """Per budget the solver fitted on n shared trajectories, and its seconds of one thread; the first counts the trajectories."""
    clock, found = time.process_time(), {}
    many, iterations = FITTED[name]
    generator, pool = torch.Generator().manual_seed(options.fit_seed), 8 if name == "digits" else POOL
    shape = (n or options.trajectories or many, *event)
    trajectories = sd.Trajectories.generate(denoiser, shape=shape, pool=pool, generator=generator)
    for nfe in budgets:
        solver = sd.fit(
            denoiser, nfe, trajectories=trajectories, iterations=options.iterations or max(iterations, nfe * (name != "digits") * PER_CALL)
        )
        found[nfe] = solver, time.process_time() - clock
        clock = time.process_time()
    return found


class Cell(NamedTuple):
    """One row of the table: ours, and the best of the others by each figure."""

    label: str
    calls: int
    ours: Figures
    best: list[tuple[str, float]]
    seconds: float

    @property
    def ratios(self) -> Figures:
        return self.ours.over(Figures(*(value for _, value in self.best)))

    def __str__(self) -> str:
        names = "; ".join(dict.fromkeys(name for name, _ in self.best))
        best = Figures(*(value for _, value in self.best))
        return f"{self.label:<14}{self.calls:>3}  ours {self.ours}  best {best}  ratio {self.ratios}  fit {self.seconds:4.0f} s  {names}"


def cells(
    label: str, denoiser: sd.Denoiser, x: Tensor, end: Tensor, options: argparse.Namespace, listed: Panel | None = None
) -> list[Cell]:
    """A problem's cells; `listed(nfe)` is the panel, by default all."""
    name, _, kind = label.partition("/")
    solvers, found = fitted(name.partition("-")[0], denoiser, options.budgets, x.shape[1:], options), []
    for nfe, (solver, seconds) in solvers.items():
        others = measure(denoiser, x, end, (listed or competitors)(nfe))
        best = best_of(others)
        if (name, kind) in BEST and (name == "ring2" or options.seed == 0):
            known = FIVE[name, kind] if nfe == 5 else BEST[name, kind][BEST_BUDGETS.index(nfe)]
            best = [min(b, (f"BEST {label}", k), key=lambda p: p[1]) for b, k in zip(best, known, strict=False)] + best[2:]
        cell = Cell(label, nfe, figures(ours(denoiser, x, solver, nfe), end), best, seconds)
        print(cell, flush=True)
        found.append(cell)
    return found


def summary(found: list[Cell]) -> bool:
    """Prints geometric mean and worst ratio per problem and the cells that miss; whether one does."""
    for label in dict.fromkeys(cell.label for cell in found):
        columns = list(zip(*(cell.ratios for cell in found if cell.label == label), strict=True))
        means, worst = Figures(*map(statistics.geometric_mean, columns)), Figures(*map(max, columns))
        reached = [sum(value <= REACH for value in column) for column in columns]
        print(f"{label:<14} geometric mean {means}  worst {worst}  at most {REACH}: {reached} of {len(columns[0])} (rms, median, trimmed)")
    missed = [cell for cell in found if max(cell.ratios) > REACH]
    for cell in missed:
        print(f"missed: {cell.label} at {cell.calls} calls, ratios {cell.ratios}")
    return bool(missed)


def exact(name: str, kind: str, seed: int, options: argparse.Namespace) -> tuple[sd.Denoiser, Tensor, Tensor]:
    """(denoiser, fresh starts, ends of the flow)."""
    denoiser = problem(name, RANGES[kind], seed)
    d = denoiser.means.shape[1]
    x = starts(denoiser.sde, (min(options.n, 256) if d > 64 else options.n, d), options.starts)
    return denoiser, x, flow(denoiser, x)


def part_cells(options: argparse.Namespace) -> bool:
    found: list[Cell] = []
    for name in options.problems:
        for kind in options.ranges:
            found += cells(f"{name}/{kind}", *exact(name, kind, options.seed, options), options)
    return summary(found)


def part_mixtures(options: argparse.Namespace) -> bool:
    """Other seeds of mix64, against the ten best (by rms, and by median) of the first."""
    found = []
    for kind in options.ranges:
        first = {nfe: measure(*exact("mix64", kind, options.seed, options), competitors(nfe)) for nfe in options.budgets}
        kept = {nfe: {n for i in (0, 1) for n in sorted(f, key=lambda name, i=i, f=f: f[name][i])[:10]} for nfe, f in first.items()}
        for seed in range(options.seed, options.seed + options.mixtures):

            def few(nfe: int, kept: dict[int, set[str]] = kept) -> Sequence[tuple[str, Run]]:
                return [pair for pair in competitors(nfe) if pair[0] in kept[nfe]]

            found += cells(f"mix64-{seed}/{kind}", *exact("mix64", kind, seed, options), options, few)
    for nfe in options.budgets:
        columns = list(zip(*(cell.ratios for cell in found if cell.calls == nfe), strict=True))
        print(f"{nfe:>3} calls: median ratio {Figures(*map(statistics.median, columns))}  worst {Figures(*map(max, columns))}")
    return any(max(cell.ratios) > REACH for cell in found)


def part_trajectories(options: argparse.Namespace) -> bool:
    """Error on fresh starts against the number of trajectories, at 10 calls."""
    for name in options.problems:
        denoiser, x, end = exact(name, "VP", options.seed, options)
        print(f"{name}: auto {figures(ours(denoiser, x, 'auto', 10), end)}")
        for n in (32, 64, 128, 256, 512):
            solver, seconds = fitted(name, denoiser, (10,), x.shape[1:], options, n)[10]
            print(f"{n:>5} trajectories {figures(ours(denoiser, x, solver, 10), end)}  {seconds:.0f} s", flush=True)
    return False


class Guided(sd.Denoiser):
    """uncond + scale (cond - uncond)."""

    def __init__(self, cond: sd.Denoiser, uncond: sd.Denoiser, scale: float) -> None:
        super().__init__(cond.sde)
        self.conditional, self.unconditional, self.scale = cond, uncond, scale

    def forward(self, x: Tensor, t: float | Tensor, cond: object = None) -> Tensor:
        free = self.unconditional(x, t)
        return free + self.scale * (self.conditional(x, t) - free)


def digits(workdir: Path, options: argparse.Namespace, data: str = "digits") -> sd.Denoiser:
    """The network of a run, trained first if there is none in `workdir`."""
    if workdir.exists():
        return training.open_checkpoint(workdir).denoiser().eval()
    config = training.default_config()
    config.steps, config.data = options.training_steps or config.steps, data
    return training.fit(training.prepare(config, workdir, resume=False, overwrite=False, device="cpu"), progress=False).eval()


def network(options: argparse.Namespace) -> tuple[sd.Denoiser, Tensor, Tensor]:
    """(digits network, fresh starts, ends of the flow of its float64 copy)."""
    denoiser = digits(options.workdir or options.out / "digits", options)
    x = starts(denoiser.sde, (min(options.n, 256), 1, 8, 8), options.starts, torch.float32)
    double = copy.deepcopy(denoiser).double()
    end = sd.sample(double, sd.AdaptiveODE(rtol=1e-6, atol=1e-6), x=x.double()) / denoiser.sde.alpha(denoiser.sde.t_min)
    return denoiser, x, end


def part_transfer(options: argparse.Namespace) -> bool:
    """A solver fitted to one model and used on another, against auto."""

    def report(label: str, used: sd.Denoiser, x: Tensor, end: Tensor, nfe: int, solver: sd.Solver) -> None:
        fit, auto = (figures(ours(used, x, s, nfe), end) for s in (solver, "auto"))
        print(f"{label:<42}{nfe:>3} calls  ours {fit}  auto {auto}  ratio {fit.over(auto)}", flush=True)

    for name in options.problems:
        every = problem(name, RANGES["VP"], options.seed)
        k = len(every.means) // 2
        half = sd.GaussianMixtureDenoiser(every.means[:k], every.variances[:k].sqrt(), every.log_weights[:k].softmax(0), every.sde)
        x = starts(every.sde, (min(options.n, 512), every.means.shape[1]), options.starts)
        solvers = fitted(name, Guided(half, every, 1.0), options.budgets, x.shape[1:], options)
        for scale in (1.0, 3.0):
            used = Guided(half, every, scale)
            end = flow(used, x)
            for nfe, (solver, _) in solvers.items():
                report(f"{name}: fitted at scale 1, used at {scale:g}", used, x, end, nfe, solver)
    denoiser, x, end = network(options)
    solvers = fitted("digits", denoiser, options.budgets, x.shape[1:], options)
    low = copy.deepcopy(denoiser).bfloat16()
    data, path = load("digits"), options.out / "digits_0_to_4.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = {"train": data.train.take(), "held_out": data.held_out.take()}
        np.savez(path, **{name: part.x[part.labels < 5] for name, part in parts.items()})
    five = digits(options.out / "digits_0_to_4", options, str(path))
    others = fitted("digits", five, options.budgets, x.shape[1:], options)
    for nfe, (solver, _) in solvers.items():
        report("digits: fitted and used in float32", denoiser, x, end, nfe, solver)
        report("digits: network in bfloat16", low, x, end, nfe, solver)
        report("digits: network and state in bfloat16", low, x.bfloat16(), end, nfe, solver)
        report("digits: fitted to 0-4, used on 0-9", denoiser, x, end, nfe, others[nfe][0])
    return False


def part_digits(options: argparse.Namespace) -> bool:
    """Path errors of the network's cells, and quality of 720 samples at 5 and 8 calls against auto at twice the calls."""
    denoiser, x, end = network(options)
    some = (sd.vp_power(R=1), sd.vp_power(R=2), sd.log_snr)
    missed = summary(cells("digits/VP", denoiser, x, end, options, lambda nfe: competitors(nfe, some)))
    data, more = load("digits"), starts(denoiser.sde, (720, 1, 8, 8), options.starts + 1, torch.float32)
    train, rows = data.train.take(), []
    for nfe, (solver, _) in fitted("digits", denoiser, (5, 8), x.shape[1:], options).items():
        for name, kind, calls in (("fitted", solver, nfe), ("auto", "auto", nfe), ("auto", "auto", 2 * nfe)):
            found = evaluation.quality(ours(denoiser, more, kind, calls), train.x, data.held_out.take().x, labels=train.labels)
            rows.append((name, str(calls), *found.cells()))
    print(evaluation.table(("solver", "NFE", *evaluation.QUALITY_COLUMNS), rows))
    return missed


PARTS = {
    "cells": part_cells,
    "mixtures": part_mixtures,
    "trajectories": part_trajectories,
    "transfer": part_transfer,
    "digits": part_digits,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["cells"])
    parser.add_argument("--problems", nargs="+", choices=("ring2", "mix64", "mix256"), default=["ring2", "mix64", "mix256"])
    parser.add_argument("--ranges", nargs="+", choices=RANGES, default=list(RANGES))
    parser.add_argument("--budgets", nargs="+", type=int, choices=BUDGETS, default=list(BUDGETS))
    parser.add_argument("--seed", type=int, default=20261, help="of the mixtures; 0 is that of BEST")
    parser.add_argument("--starts", type=int, default=71773, help="seed of the starts that are measured")
    parser.add_argument("--fit-seed", type=int, default=40507, help="seed of the trajectories fitted on")
    parser.add_argument("--trajectories", type=int, help="to fit on; default: as FITTED says")
    parser.add_argument("--iterations", type=int, help="of the fit, likewise")
    parser.add_argument("--mixtures", type=int, default=10)
    parser.add_argument("--n", type=int, default=1024, help="paths; at most 256 in 256 dimensions and of the network")
    parser.add_argument("--out", type=Path, default=Path("runs/few_step"), help="where networks are trained")
    parser.add_argument("--workdir", type=Path, help="run of a digits network; default: one trained in --out/digits")
    parser.add_argument("--training-steps", type=int, help="of the networks; default: the configuration's")
    options = parser.parse_args(argv)
    if options.starts in (options.fit_seed, options.seed):
        parser.error("--starts must differ from --fit-seed and --seed: errors are of paths that were not fitted on")
    torch.set_num_threads(1)
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "k-diffusion"))
    print(f"{libraries}; {datetime.date.today()}, {torch.get_num_threads()} thread; figures: rms, median, rms of the 99 % smallest")
    missed = [PARTS[part](options) for part in options.parts]
    return int(any(missed))


if __name__ == "__main__":
    sys.exit(main())
