"""Does each solver do what its name says? Ours and the neighbours' installed versions before the same exact oracles, one row per solver.

    python benchmarks/audit.py [--fast] [--only REGEX] [--out table.md|table.csv]          (4 minutes on one core; --fast: 2)

    order      of convergence: of a solver without noise the distance to the exact end of the probability flow, on a mixture in two
               dimensions; of one with noise the error in mean and standard deviation on Gaussian data (weak order)
    law        error in mean or standard deviation of the output on Gaussian data of four widths, 0.1 to 1.5, on the finer grid. A solver
               that is affine there has it without Monte Carlo, from basis vectors in place of its start and noise; of others 16384 draws
    modes      error in the weight of the heavier of two modes, 4096 draws in 256 steps, standard error 0.006
    outside    how far from the grid's times the denoiser was asked
    batch      how much a sample changes when it is drawn alone, with its own seed

The exit status is 1 if a row of ours is not clean. What a neighbour's row says is what was run, with the version that is printed, on our
denoiser, at our times and with our noise (_peers.py), and nothing more.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import io
import math
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from _peers import (
    Run,
    azula_sampler,
    diffusers_scheduler,
    diffusers_score_sde_ve,
    k_adaptive,
    k_sampler,
    torchdiffeq_odeint,
    torchode_solve,
    torchsde_sdeint,
    version,
)
from torch import Tensor

import sde_diffusion as sd
from sde_diffusion.evaluation.gaussian_law import marginal

VP, VE = sd.VPSDE(), sd.VESDE(0.02, 20.0)
CHAIN, LADDER = sd.DDPMChain(sd.linear_betas(1000)), sd.VESDE(0.02, 20.0).discretize(200)
SLACK = 0.25  # by which a measured order may miss the nominal one on grids of a few hundred steps
BIAS = 0.05  # in the law, of a solver that claims no order: four standard errors of its draws, and the bias of its default step
MODE = 0.03  # in a mode's weight: four standard errors, and the bias of a first-order solver in 256 steps
ROUNDING = 1e-9
OURS = "sde_diffusion"

MEANS, STDS = [1.0, -0.5, 0.3, 0.2], [0.5, 1.0, 0.1, 1.5]  # of Gaussian data: where one width is lucky, another is not
MODES, SPREAD, WEIGHTS = [[1.0, -1.0], [-1.0, 0.5], [0.5, 1.5]], [0.3, 0.4, 0.25], [0.5, 0.3, 0.2]  # of the mixture


def ours(solver: sd.Solver) -> Run:
    """A solver of ours, called like a neighbour's."""
    return lambda denoiser, x, grid, noise: sd.sample(denoiser, solver, x=x, grid=grid, noise=noise)


def gentle(sde: sd.AffineSDE, n: int) -> Tensor:
    """A grid in log-SNR that begins with steps of order n^-3, so that the lower order of a multistep solver's first steps does not show."""
    u = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    ends = sde.log_snr(torch.tensor([sde.t_max, sde.t_min], dtype=torch.float64))
    grid = sde.t_of_log_snr(torch.lerp(*ends, u**3 * (4 - 3 * u)))
    grid[0], grid[-1] = sde.t_max, sde.t_min
    return grid


# Order on the mixture: the distance to the end of the probability flow, from SciPy at 1e-12.


def mixture(sde: sd.AffineSDE) -> sd.GaussianMixtureDenoiser:
    return sd.GaussianMixtureDenoiser(MODES, SPREAD, WEIGHTS, sde)


def start(sde: sd.AffineSDE, n: int = 16) -> Tensor:
    return sde.prior_sample((n, 2), sd.Stream(torch.Generator().manual_seed(0)), dtype=torch.float64)


def flow_errors(run: Run, sde: sd.AffineSDE, counts: Sequence[int], grid: Callable[..., Tensor] = gentle) -> list[float]:
    """Mean distance |x - x_exact| of a deterministic solver's end, for each number of steps."""
    denoiser, x = mixture(sde), start(sde)
    errors = []
    for n in counts:
        times = grid(sde, n)
        exact = flow_end(sde, float(times[0]), float(times[-1]))
        errors.append((run(denoiser, x, times, torch.zeros_like) - exact).norm(dim=1).mean().item())
    return errors


@functools.lru_cache(maxsize=32)
def flow_end(sde: sd.AffineSDE, first: float, last: float) -> Tensor:
    """Where the probability flow takes `start(sde)` on the mixture."""
    return sd.sample(mixture(sde), sd.ScipyODE("DOP853", 1e-12, 1e-12), x=start(sde), grid=[first, last])


# Law on Gaussian data: a solver is affine in its start and its noise, so that basis vectors in their place show its output's exact law.


def law(run: Run, denoiser: sd.GaussianDenoiser, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the output, per coordinate, from the exact marginal at grid[0]."""
    draws = 0

    def count(x: Tensor) -> Tensor:
        nonlocal draws
        draws += 1
        return torch.zeros_like(x)

    d = denoiser.mean.numel()
    run(denoiser, torch.zeros(1, d, dtype=torch.float64), grid, count)
    x, units = torch.zeros(2 + draws, d, dtype=torch.float64), iter(torch.eye(2 + draws, dtype=torch.float64)[2:])
    x[1] = 1
    y = run(denoiser, x, grid, lambda _: next(units)[:, None].expand(-1, d))
    weights = y[1:] - y[0]
    mean, std = marginal(denoiser, float(grid[0]))
    return y[0] + weights[0] * mean, torch.hypot(weights[0] * std, weights[1:].norm(dim=0))


def law_errors(run: Run, sde: sd.AffineSDE, counts: Sequence[int], grid: Callable[..., Tensor] = gentle) -> list[float]:
    """The largest error in mean and standard deviation, for each number of steps."""
    denoiser = sd.GaussianDenoiser(MEANS, STDS, sde)
    grids = [grid(sde, n) for n in counts]
    return [law_error(denoiser, *law(run, denoiser, times), times[-1]) for times in grids]


def law_error(denoiser: sd.GaussianDenoiser, mean: Tensor, std: Tensor, t: Tensor) -> float:
    true_mean, true_std = marginal(denoiser, float(t))
    return torch.stack([mean - true_mean, std - true_std]).abs().max().item()


def slope(errors: Sequence[float], counts: Sequence[int]) -> float:
    """The order: log(error ratio)/log(step ratio), of the last two."""
    return math.log(errors[-2] / errors[-1]) / math.log(counts[-1] / counts[-2])


class Watch(sd.Denoiser):
    """Hands every call on and keeps the range of times asked for."""

    def __init__(self, inner: sd.Denoiser) -> None:
        super().__init__(inner.sde)
        self.inner, self.low, self.high, self.calls = inner, math.inf, -math.inf, 0

    def forward(self, x: Tensor, t: Tensor | float, cond: object = None) -> Tensor:
        times = torch.as_tensor(t)
        self.low, self.high, self.calls = min(self.low, times.min().item()), max(self.high, times.max().item()), self.calls + 1
        return self.inner(x, t, cond)


def outside(run: Run, sde: sd.AffineSDE, grid: Tensor) -> float:
    """How far from the grid's interval the denoiser is asked, in t."""
    watch = Watch(mixture(sde))
    run(watch, start(sde), grid, sd.PerSample(range(16)))
    return max(grid[-1].item() - watch.low, watch.high - grid[0].item(), 0.0)


def coupling(run: Run, sde: sd.AffineSDE, grid: Tensor) -> float:
    """How much a sample changes when it is drawn without its batch, from the same start and with the same seeds."""
    denoiser, x = mixture(sde), start(sde)
    together = run(denoiser, x, grid, sd.PerSample(range(16)))
    alone = [run(denoiser, x[i : i + 1], grid, sd.PerSample([i])) for i in range(2)]
    return (together[:2] - torch.cat(alone)).abs().max().item()


def repeats(run: Run, sde: sd.AffineSDE, grid: Tensor) -> bool:
    """Whether the same seeds give the same samples."""
    first, again = (run(mixture(sde), start(sde), grid, sd.PerSample(range(16))) for _ in range(2))
    return torch.equal(first, again)


def mode_error(run: Run, sde: sd.AffineSDE, grid: Tensor, draws: int) -> float:
    """Error in the weight 0.8 of the heavier of two modes in one dimension, from the exact marginal at grid[0]."""
    denoiser = sd.GaussianMixtureDenoiser([[1.0], [-1.0]], 0.2, [0.8, 0.2], sde)
    noise = sd.Stream(torch.Generator().manual_seed(0))
    x = denoiser.sample_data(draws, noise=noise)
    x = run(denoiser, sde.perturb(x, grid[0], noise(x)), grid, noise)
    return abs((x > 0).double().mean().item() - 0.8)


def drawn_law_error(run: Run, sde: sd.AffineSDE, grid: Tensor, draws: int) -> float:
    """As in `law_errors`, from draws."""
    denoiser, noise = sd.GaussianDenoiser(MEANS, STDS, sde), sd.Stream(torch.Generator().manual_seed(0))
    x = denoiser.sample_data(draws, noise=noise)
    x = run(denoiser, sde.perturb(x, grid[0], noise(x)), grid, noise)
    return law_error(denoiser, x.mean(0), x.std(0), grid[-1])


# The rows.


@dataclasses.dataclass
class Entry:
    """What is run: `order` claimed (None: none is), on the processes `sdes`, on grids `grid(sde, n)`.

    `weak`: whether the order is measured by the law, as that of a solver with noise, or of one that ends on noise-free data. `affine`:
    whether the law can be had from basis vectors. `steps`: coarse and fine number of steps, None for the default.
    """

    library: str
    name: str
    run: Run
    order: float | None
    sdes: tuple[sd.AffineSDE, ...]
    grid: Callable[..., Tensor] = gentle
    affine: bool = True
    steps: tuple[int, int] | None = None
    weak: bool = False


@dataclasses.dataclass
class Row:
    """What came out; `problems` is empty if it is clean."""

    library: str
    version: str
    solver: str
    nominal: float | None = None
    order: float | None = None
    law: float | None = None
    modes: float | None = None
    outside: float | None = None
    batch: float | None = None
    problems: list[str] = dataclasses.field(default_factory=list)

    def cells(self) -> list[str]:
        numbers = [(self.nominal, "g"), (self.order, ".2f"), *((v, ".1e") for v in (self.law, self.modes, self.outside, self.batch))]
        return [
            self.library,
            self.version,
            self.solver,
            *("-" if value is None else format(value, form) for value, form in numbers),
            "; ".join(self.problems) or "clean",
        ]


HEADER = ["library", "version", "solver", "nominal", "order", "law", "modes", "outside", "batch", "verdict"]


def audit(entry: Entry, fast: bool = False) -> Row:
    """Runs one entry before all oracles; a crash is a problem."""
    row = Row(entry.library, version(entry.library) or "", entry.name, entry.order)
    try:
        _measure(entry, row, fast)
    except Exception as error:
        row.problems.append(f"{type(error).__name__}: {str(error).splitlines()[0][:60] if str(error) else ''}")
    return row


def _measure(entry: Entry, row: Row, fast: bool) -> None:
    order = entry.order
    counts = entry.steps or ((256, 512) if entry.weak or (order or 0) > 2 else (128, 256))
    if fast and not entry.steps:
        counts = counts[0] // 2, counts[1] // 2
    slack, bias = SLACK * (1 + fast), BIAS * (1 + fast)
    orders, laws, modes, outsides, batches = [], [], [], [], []
    for sde in entry.sdes[:1] if fast else entry.sdes:
        grid = entry.grid(sde, counts[1] if entry.steps else 50)
        if order is not None:
            orders.append(_order(entry, sde, counts, slack))
        if entry.affine:
            laws += law_errors(entry.run, sde, counts[1:], entry.grid)
        else:
            laws.append(drawn_law_error(entry.run, sde, grid, 4096 if fast else 16384))
        modes.append(mode_error(entry.run, sde, entry.grid(sde, counts[1] if entry.steps else 256), 4096))
        outsides.append(outside(entry.run, sde, grid))
        batches.append(coupling(entry.run, sde, grid))
        if not repeats(entry.run, sde, grid):
            row.problems.append("the same seeds give other samples")
    row.order = min(orders, default=None)
    row.law, row.modes, row.outside, row.batch = max(laws), max(modes), max(outsides), max(batches)
    if order is not None and not row.order >= order - slack:
        row.problems.append(f"order {row.order:.1f}, not {order:g}")
    if order is None and not row.law <= bias:
        row.problems.append(f"law off by {row.law:.2f}")
    if not row.modes <= MODE:
        row.problems.append(f"mode weight off by {row.modes:.2f}")
    if not row.outside <= ROUNDING:
        row.problems.append(f"asks for t outside by {row.outside:.2g}")
    if not row.batch <= ROUNDING:
        row.problems.append(f"a sample changes with its batch by {row.batch:.1g}")


def _order(entry: Entry, sde: sd.AffineSDE, counts: tuple[int, int], slack: float) -> float:
    measure = law_errors if entry.weak else flow_errors
    errors = measure(entry.run, sde, counts, entry.grid)
    # A small error of the claimed order may hide behind a larger one of higher order, which finer grids remove.
    for _ in range(2 if entry.weak and not entry.steps else 0):
        if slope(errors, counts) >= (entry.order or 0) - slack:
            break
        counts = counts[1], 2 * counts[1]
        errors = [errors[1], *measure(entry.run, sde, counts[1:], entry.grid)]
    return slope(errors, counts)


NAMES = re.compile("<function same at [^>]*>")


def same(x: Tensor, t: float, noise: sd.Noise) -> Tensor:
    """A projection that leaves the state as it is."""
    return x


def our_entries() -> Iterator[Entry]:
    """Every solver of ours, in its main variants."""
    tables = [
        *(sd.EulerMaruyama(eta) for eta in (0.0, 1.0)),
        *(sd.ReverseDiffusion(eta) for eta in (0.0, 1.0)),
        *(sd.Ancestral(variance) for variance in ("posterior", "forward")),
        *(sd.DDIM(eta) for eta in (0.0, 0.5, 1.0)),
        *(solver(form) for solver in (sd.Euler, sd.Heun, sd.Midpoint, sd.RK4) for form in ("epsilon", "x0", "velocity", "t")),
        *(solver(form, 1.0) for solver in (sd.Euler, sd.Heun, sd.Midpoint, sd.RK4) for form in ("epsilon", "x0")),
        *(sd.DPMSolver(3, form, eta) for form in ("epsilon", "x0") for eta in (0.0, 1.0)),
        *(sd.AdamsBashforth(order, form) for order in (2, 3, 4) for form in ("epsilon", "velocity", "x0")),
        sd.AdamsBashforth(2, corrector=True),
        *(sd.DEIS(order) for order in (2, 3)),
        sd.DEIS(3, "log_snr"),
        *(sd.IPNDM(order, variable) for order in (2, 3, 4) for variable in (False, True)),
        sd.IPNDM(4, start="heun"),
        sd.IPNDM(4, variable_step=True, published=True),
        *(sd.DPMSolverPP(order, noisy, form=form) for order in (1, 2, 3) for noisy in (False, True) for form in ("x0", "epsilon")),
        *(sd.DPMSolverPP(2, noisy, exact=True) for noisy in (False, True)),
        *(sd.DPMSolverPP(3, noisy, published=True) for noisy in (False, True)),
        *(sd.UniPC(order, variant, lower_final=0) for order in (2, 3) for variant in ("bh1", "bh2")),
        sd.UniPC(3, form="epsilon", lower_final=0),
        *(sd.SASolver(order, eta) for order in (2, 3) for eta in (0.0, 1.0)),
        *(sd.Renoise(solver) for solver in (sd.Euler(), sd.Midpoint(), sd.Midpoint("x0"), sd.DPMSolver(3))),
        sd.Churn(sd.Euler(), s_noise=1.0),
        sd.Churn(sd.Heun(), s_noise=1.0),
    ]
    for solver in tables:
        grid = gentle if hasattr(solver, "variable") else solver.default_grid
        table = solver.tableau(VP, grid(VP, 8))
        yield Entry(OURS, str(solver), ours(solver), solver.weak_order, (VP, VE), grid, weak=bool(table.noise.any()))
    others: list[tuple[sd.Solver, sd.AffineSDE, bool]] = [
        (sd.AdaptiveODE(), VP, False),
        (sd.AdaptiveSDE(rtol=0.02), VP, False),
        *(
            (sd.PredictorCorrector(sd.DDIM(), corrector), VP, affine)
            for corrector, affine in (
                (sd.Langevin(), True),
                (sd.MetropolisLangevin(), False),
                (sd.PreconditionedLangevin(std=min(STDS)), False),
                (sd.UnderdampedLangevin(), False),
            )
        ),
        (sd.AnnealedLangevin(), sd.NCSNLadder(sd.geometric_sigmas(10, 0.01, 1.0)), True),
        (sd.ConsistentAnnealed(), sd.VESDE().discretize(232), True),
        (sd.FinalDenoise(sd.DDIM()), VP, True),
        (sd.AnalyticFirstStep(sd.Heun()), VP, True),
        (sd.Truncate(sd.Heun(), 0.9), VP, True),
        (sd.Projected(sd.DDIM(), same), VP, True),
    ]
    for solver, sde, affine in others:
        steps = None if sde.length is None else (sde.length, sde.length)
        yield Entry(OURS, NAMES.sub("same", str(solver)), ours(solver), None, (sde,), solver.default_grid, affine, steps)


def uniform(sde: sd.AffineSDE, n: int) -> Tensor:
    """Equal steps in t, for integrators that know no other clock."""
    return sd.uniform(sde, n)


def leading(sde: sd.AffineSDE, n: int) -> Tensor:
    """Every (1000/n)-th node, down to the data."""
    return sd.chain_grid(sde, n, spacing="leading")


def neighbours() -> Iterator[Entry]:
    """What is run of other libraries, with the order that their documentation or their papers claim; None: none."""
    yield from _diffusers()
    for name, options, order, noisy in (
        ("euler", {}, 1, False),
        ("heun", {}, 2, False),
        ("dpm_2", {}, 2, False),
        ("lms", {"order": 4}, 4, False),
        ("dpmpp_2m", {}, 2, False),
        ("dpmpp_2m_sde", {"eta": 0.0}, 2, False),
        ("dpmpp_3m_sde", {"eta": 0.0}, 3, False),
        ("euler_ancestral", {}, 1, True),
        ("dpm_2_ancestral", {}, 2, True),
        ("dpmpp_2s_ancestral", {}, 2, True),
        ("dpmpp_2m_sde", {}, 2, True),
        ("dpmpp_3m_sde", {}, 2, True),
    ):
        yield Entry("k_diffusion", _call(name, options), k_sampler(name, **options), order, (VE,), weak=noisy)
    for brownian in (True, False):
        name = f"dpmpp_sde, {'Brownian' if brownian else 'independent'} noise"
        yield Entry("k_diffusion", name, k_sampler("dpmpp_sde", brownian=brownian), 2, (VE,), weak=True)
    yield Entry("k_diffusion", "dpm_adaptive(rtol=1e-3)", k_adaptive(rtol=1e-3, atol=1e-3), None, (VE,), affine=False)
    for name, options, order, noisy in (
        ("DDPM", {}, 1, True),
        ("DDIM", {}, 1, False),
        ("DDIM", {"eta": 1.0}, 1, True),
        ("Euler", {}, 1, False),
        ("Heun", {}, 2, False),
        ("Ito", {}, 1, True),
        *((name, {"order": order}, order, False) for name in ("zAB", "vAB", "zEAB", "xEAB", "REAB") for order in (2, 3)),
        ("PC", {}, None, True),
    ):
        yield Entry("azula", _call(f"{name}Sampler", options), azula_sampler(name, **options), order, (VP,), weak=noisy)
    for method, order in (("euler", 1), ("milstein", 1), ("heun", 1), ("midpoint", 1)):
        yield Entry("torchsde", f"sdeint({method!r})", torchsde_sdeint(method), order, (VP,), uniform, weak=True)
    yield Entry("torchsde", "sdeint as TorchSDE()", ours(sd.TorchSDE()), None, (VP,), uniform, affine=False)
    for method, order in (("euler", 1), ("midpoint", 2), ("heun3", 3), ("rk4", 4)):
        yield Entry("torchdiffeq", f"odeint({method!r})", torchdiffeq_odeint(method), order, (VP,), uniform)
    yield Entry("torchdiffeq", "odeint('dopri5', rtol=1e-5)", torchdiffeq_odeint("dopri5", rtol=1e-5, atol=1e-5), None, (VE,), affine=False)
    for method in ("dopri5", "tsit5"):
        yield Entry("torchode", f"{method}(rtol=1e-5)", torchode_solve(method), None, (VP,), uniform, affine=False)
    yield Entry("scipy", "solve_ivp('RK45') as ScipyODE()", ours(sd.ScipyODE()), None, (VP,), uniform, affine=False)


def _diffusers() -> Iterator[Entry]:
    def entry(name: str, order: float | None, sde: sd.AffineSDE, weak: bool = False, **options: object) -> Entry:
        grid, steps = (leading, (100, 200)) if sde is CHAIN else (gentle, None)
        return Entry("diffusers", _call(name, options), diffusers_scheduler(name, **options), order, (sde,), grid, True, steps, weak)

    yield entry("DDPM", 1, CHAIN, True)
    yield entry("DDIM", 1, CHAIN, True)
    yield entry("DDIM", 1, CHAIN, True, step={"eta": 1.0})
    trailing = entry("DDIM", 1, CHAIN, True, timestep_spacing="trailing")
    yield dataclasses.replace(trailing, grid=lambda sde, n: sd.chain_grid(sde, n, spacing="trailing"), steps=(80, 160))
    # Of order 2, which its grids of at most 1000 nodes do not show: 1.7 from 250 to 500 steps, theirs and ours.
    pndm = entry("PNDM", None, CHAIN, skip_prk_steps=True)
    yield dataclasses.replace(pndm, grid=lambda sde, n: leading(sde, n)[:-1])
    whole = {"lower_order_final": False}
    for algorithm in ("dpmsolver++", "dpmsolver"):
        options = {**whole, "algorithm_type": algorithm, "final_sigmas_type": "zero" if algorithm.endswith("++") else "sigma_min"}
        for order in (1, 2, 3):
            yield entry("DPMSolverMultistep", order, VP, solver_order=order, **options)
        for order in (1, 2, 3) if algorithm.endswith("++") else (1, 2):
            options["algorithm_type"] = f"sde-{algorithm}"
            yield entry("DPMSolverMultistep", min(order, 2), VP, True, solver_order=order, **options)
    for variant in ("bh1", "bh2"):
        for order in (2, 3):
            yield entry("UniPCMultistep", order + 1, VP, solver_order=order, solver_type=variant, **whole)
    for order in (2, 3):  # its differences of logarithms lose their digits on the tiny first steps of `gentle`
        yield dataclasses.replace(entry("DEISMultistep", order, VP, solver_order=order, **whole), grid=sd.log_snr)
    for order in (2, 3):
        yield entry("SASolver", 2, VP, True, predictor_order=order, corrector_order=order + 1, tau_func=always, **whole)
    yield entry("EulerDiscrete", 1, VP)
    yield entry("EulerAncestralDiscrete", 1, VP, True)
    yield entry("HeunDiscrete", 2, VP)
    yield entry("KDPM2Discrete", 2, VP)
    yield entry("KDPM2AncestralDiscrete", 2, VP, True)
    yield entry("LMSDiscrete", 4, VP)
    yield entry("EDMEuler", 1, VE)
    for order in (2, 3):
        yield entry("EDMDPMSolverMultistep", order, VE, solver_order=order, **whole)
        yield entry("EDMDPMSolverMultistep", 2, VE, True, solver_order=order, algorithm_type="sde-dpmsolver++", **whole)
    yield Entry("diffusers", "ScoreSdeVe", diffusers_score_sde_ve(), None, (LADDER,), uniform, False, (LADDER.length, LADDER.length))


def always(t: float) -> int:
    """SA-Solver's tau(t) = 1."""
    return 1


def _call(name: str, options: dict[str, object]) -> str:
    shown = ", ".join(f"{key}={getattr(value, '__name__', None) or repr(value)}" for key, value in options.items())
    return f"{name}({shown})" if shown else name


def table(rows: Sequence[Row], fmt: str = "md") -> str:
    """All rows as Markdown or CSV."""
    lines = [HEADER, *(row.cells() for row in rows)]
    if fmt == "csv":
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(lines)
        return buffer.getvalue()
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], ["---"] * len(HEADER), *lines[1:]]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the audit; 1 if a row of ours is not clean."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--fast", action="store_true", help="one process, grids half as fine, a quarter of the draws, and twice the tolerance"
    )
    parser.add_argument("--only", default="", metavar="REGEX", help="of 'library solver', which rows to run")
    parser.add_argument("--out", type=Path, help="a file .md or .csv for the table")
    args = parser.parse_args(argv)
    if args.out and args.out.suffix not in (".md", ".csv"):
        parser.error(f"--out must end in .md or .csv, got {args.out}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the neighbours', about each other
    began, rows = time.perf_counter(), []
    for entry in (*our_entries(), *neighbours()):
        if not re.search(args.only, f"{entry.library} {entry.name}"):
            continue
        if version(entry.library) is None:
            print(f"{entry.library} is not installed: {entry.name} is left out", file=sys.stderr)
            continue
        rows.append(audit(entry, args.fast))
        print(" | ".join(rows[-1].cells()), flush=True)
    mine = [row for row in rows if row.library == OURS]
    failed = [row.solver for row in mine if row.problems]
    others = [row for row in rows if row.library != OURS]
    print(
        f"\n{len(mine) - len(failed)} of {len(mine)} rows of ours are clean, {sum(not row.problems for row in others)} of {len(others)} of "
        f"the neighbours'; {time.perf_counter() - began:.0f} s, torch {torch.__version__}"
    )
    if args.out:
        args.out.write_text(table(rows, args.out.suffix[1:]), encoding="utf-8")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
