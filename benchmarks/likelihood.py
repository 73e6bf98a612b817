"""Log-likelihoods by the probability flow against the exact ones: ours and the neighbours', side by side.

    python benchmarks/likelihood.py [--problems mix64 ring2] [--points 1000] [--parts table coverage oracle gradient networks]

    table      per problem, process, precision and tolerance: evaluations of the flow per sample, calls of the denoiser, seconds of the
               processor, seconds over the limit, mean and root mean square of the error to log p_(t_min) and the latter to log p_0 of the
               data, and the standard deviation over probes of one point's estimate; then our error and time over each neighbour's
    coverage   the share of points whose truth is within 1.96 of our standard errors
    spending   what 8 products per call are best spent on, by law and directions: mixtures in 16, 64 and 256 dimensions
    oracle     exact traces at two t_min: the largest, mean and root mean square error, and the latter with the exact log p_1 in place
               of the prior's, which leaves the solver's
    gradient   of the log-likelihood: its cost, and its error to the score
    networks   seconds over the limit on small networks, where nothing but the cost is known

The limit is what no estimate of a divergence goes below: per evaluation one call of the denoiser on the whole batch, at times of each
sample if that is how it is asked, and as many vector-Jacobian products as there are probes, measured in turn with the rows. Neighbours
(_likelihood_peers.py) take part if they are installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence

import torch
from _likelihood_peers import Estimate, Likelihood, flow_matching_likelihood, k_diffusion_log_likelihood, score_sde
from _peers import k_diffusion, version
from _problems import mix64, ring
from solver_overhead import KEEP_HEAP
from torch import Tensor, nn

import sde_diffusion as sd
from sde_diffusion.likelihood import LogLikelihood, log_likelihood
from sde_diffusion.likelihood.flow import default_t_min

PROBLEMS: dict[str, Callable[[sd.AffineSDE], sd.GaussianMixtureDenoiser]] = {"mix64": mix64, "ring2": ring}
EPS = 1e-5  # the neighbours' t_min; float32 resolves no less than 1.2e-5 of the straight path
VP, VE, EDM, FLOW = sd.VPSDE(t_min=EPS), sd.VESDE(0.01, 50.0, t_min=EPS), sd.EDMSDE(), sd.RectifiedFlow(t_min=2 * EPS, t_max=1 - EPS)
FEW = 100  # points of the rows that take d vector-Jacobian products per evaluation, or keep all steps in memory
LAWS = ("rademacher", "gaussian")  # "sphere" is the second by another name
PRODUCTS = 8  # per call, of the part spending
SPENDINGS = [(law, directions) for law in ("rademacher", "gaussian", "orthogonal") for directions in (0, 1, 2, 4)]
Z95 = 1.959964
PARTS = ("table", "coverage", "spending", "oracle", "gradient", "networks")

Run = Callable[[sd.Denoiser, Tensor, int], Estimate]
"""(denoiser, points, seed of the probes) -> estimate, whose nfe is the mean over the points."""


class Opaque(sd.Denoiser):
    """A denoiser of which nothing is known but its calls, as of a network: without the trace that the exact ones have."""

    def __init__(self, inner: sd.Denoiser) -> None:
        super().__init__(inner.sde)
        self.inner = inner

    def forward(self, x: Tensor, t: Tensor | float, cond: object = None) -> Tensor:
        return self.inner(x, t, cond)


def draw_probe(x: Tensor, law: str, seed: int) -> Tensor:
    """A probe like x: signs or normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    if law == "gaussian":
        return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
    return torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1


def neighbour(likelihood: Likelihood, law: str) -> Run:
    return lambda denoiser, x, seed: likelihood(denoiser, x, draw_probe(x, law, seed))


@dataclasses.dataclass(frozen=True)
class Ours:
    """Our log_likelihood with its options."""

    method: str = "hutchinson"
    probes: int = 1
    law: str = "rademacher"
    directions: int = 0
    rtol: float = 1e-5
    t_min: float | None = EPS

    def result(self, denoiser: sd.Denoiser, x: Tensor, seed: int = 0, *, differentiable: bool = False) -> LogLikelihood:
        return log_likelihood(
            denoiser,
            x,
            method=self.method,
            probes=self.probes,
            distribution=self.law,
            directions=self.directions,
            rtol=self.rtol,
            atol=self.rtol,
            generator=torch.Generator().manual_seed(seed),
            t_min=self.t_min,
            differentiable=differentiable,
        )

    def __call__(self, denoiser: sd.Denoiser, x: Tensor, seed: int) -> Estimate:
        start = time.process_time()
        out = self.result(denoiser, x, seed)
        return Estimate(out.nats, _mean(out.nfe), out.calls, time.process_time() - start)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row to be."""

    name: str
    sde: sd.AffineSDE
    run: Run
    seeds: int = 2
    points: int = sys.maxsize  # at most
    opaque: bool = False  # whether the denoiser hides its trace
    one_time: bool = False  # whether all samples are at the same time, which an exact denoiser answers faster

    @property
    def t_min(self) -> float:
        """The time whose density is meant."""
        if isinstance(self.run, Ours) and self.run.t_min is None:
            return default_t_min(self.sde)
        return self.sde.t_min


def entries(rtol: float) -> list[Entry]:
    """All rows of the table at one tolerance."""
    rows = []
    for sde in (VP, VE):
        rows += [
            Entry("ours exact", sde, Ours("exact", rtol=rtol), seeds=1),
            Entry("ours exact, t_min by default", sde, Ours("exact", rtol=rtol, t_min=None), seeds=1),
            Entry("ours exact by autograd", sde, Ours("exact", rtol=rtol), seeds=1, points=FEW, opaque=True),
        ]
        for probes, law in itertools.product((1, 8), LAWS):
            rows.append(Entry(f"ours {law} {probes}", sde, Ours(probes=probes, law=law, rtol=rtol), opaque=True))
        if version("scipy"):
            for law in LAWS:
                rows.append(Entry(f"score_sde {law}", sde, neighbour(score_sde(rtol=rtol, atol=rtol, eps=EPS), law)))
    if has_k_diffusion():
        for sde, law in itertools.product((VE, EDM), LAWS):
            rows.append(Entry(f"k-diffusion {law}", sde, neighbour(k_diffusion_log_likelihood(tolerance=rtol), law)))
    if version("flow_matching"):
        rows.append(Entry("ours rademacher 1", FLOW, Ours(rtol=rtol, t_min=FLOW.t_min), opaque=True))
        theirs = neighbour(flow_matching_likelihood(tolerance=rtol), "rademacher")
        rows.append(Entry("flow_matching rademacher", FLOW, theirs, one_time=True))
    return rows


def has_k_diffusion() -> bool:
    try:
        k_diffusion()
    except ImportError:
        return False
    return True


# The table.


@dataclasses.dataclass(frozen=True)
class Row:
    """One line: see the module's docstring."""

    problem: str
    process: str
    precision: str
    rtol: float
    name: str
    points: int
    nfe: float
    calls: int
    seconds: float
    over_limit: float
    bias: float
    rms: float
    rms_data: float
    spread: float

    @property
    def setting(self) -> tuple[str, str, str, float]:
        """What rows share that can be compared."""
        return self.problem, self.process.replace("EDM", "VE"), self.precision, self.rtol


def table(problems: Sequence[str], points: int, tolerances: Sequence[float], precisions: Sequence[str], only: str = "") -> list[Row]:
    """Measures and prints every row that has `only` in its name."""
    columns = "problem, process, precision, rtol, method, points, NFE, calls, s, over limit, bias, rms, rms to p_0, sd over probes"
    head(*columns.split(", "))
    rows = []
    for problem, precision, rtol in itertools.product(problems, precisions, tolerances):
        for entry in entries(rtol):
            if only in entry.name:
                rows.append(measure(entry, problem, points, precision, rtol))
                line(*dataclasses.astuple(rows[-1]))
    return rows


def measure(entry: Entry, problem: str, points: int, precision: str, rtol: float) -> Row:
    """Runs a row with its seeds, in turn with the limit."""
    denoiser, x = PROBLEMS[problem](entry.sde), data(problem, min(points, entry.points)).to(getattr(torch, precision))
    truth = denoiser.log_prob(x.double(), entry.t_min)
    clean = PROBLEMS[problem](VP).log_prob(x.double(), 0.0)
    estimates, least = interleaved(entry.run, Opaque(denoiser) if entry.opaque else denoiser, x, entry.seeds, one_time=entry.one_time)
    nats, nfe, seconds = torch.stack([e.nats for e in estimates]), estimates[0].nfe, min(e.seconds for e in estimates)
    return Row(
        problem=problem,
        process=type(entry.sde).__name__,
        precision=precision,
        rtol=rtol,
        name=entry.name,
        points=len(x),
        nfe=nfe,
        calls=estimates[0].calls,
        seconds=seconds,
        over_limit=seconds / (nfe * least),
        bias=_mean(nats - truth),
        rms=rms(nats - truth),
        rms_data=rms(nats - clean),
        spread=_mean(nats.var(0)) ** 0.5 if len(nats) > 1 else 0.0,
    )


def interleaved(
    run: Run, denoiser: sd.Denoiser, x: Tensor, seeds: int, *, one_time: bool = False, limits: int = 20
) -> tuple[list[Estimate], float]:
    """Estimates with each seed, and the lower quartile of the seconds of the limit, measured before each and after the last."""
    products = run.probes if isinstance(run, Ours) else 1
    estimates, seconds = [], [limit(denoiser, x, one_time, products) for _ in range(limits)]
    for seed in range(seeds):
        estimates.append(run(denoiser, x, seed))
        seconds += [limit(denoiser, x, one_time, products) for _ in range(limits)]
    return estimates, sorted(seconds)[len(seconds) // 4]


def limit(denoiser: sd.Denoiser, x: Tensor, one_time: bool, products: int) -> float:
    """Seconds of one call, at times of each sample or at one, and some vector-Jacobian products."""
    t = torch.tensor(0.3, dtype=torch.float64) if one_time else torch.linspace(0.01, 0.9, len(x), dtype=torch.float64)
    start = time.process_time()
    state = x.detach().requires_grad_()
    x0_hat = denoiser(state, t)
    for k in range(products):
        torch.autograd.grad(x0_hat, state, x, retain_graph=k + 1 < products)
    return time.process_time() - start


def data(problem: str, points: int) -> Tensor:
    return PROBLEMS[problem](VP).sample_data(points, generator=torch.Generator().manual_seed(0))


def at_equal_cost(rows: Sequence[Row]) -> None:
    """Prints the error and the time of our one probe over every neighbour's in the same setting."""
    print()
    head("problem", "process", "precision", "rtol", "neighbour", "rms of our one probe over its", "seconds over its")
    for row, own in itertools.product(rows, rows):
        if not row.name.startswith("ours") and own.name == f"ours {row.name.split()[-1]} 1" and own.setting == row.setting:
            line(row.problem, row.process, row.precision, row.rtol, row.name, own.rms / row.rms, own.seconds / row.seconds)


# The other parts.


def coverage(problems: Sequence[str], points: int, seeds: int = 5) -> None:
    """Prints how often the truth lies within 1.96 reported standard errors, over points and seeds, and the error in such units."""
    print()
    head("problem", "process", "probes", "truth", "covered", "rms error", "mean standard error", "rms of error/standard error")
    for problem, sde in itertools.product(problems, (VP, VE)):
        denoiser, x = PROBLEMS[problem](sde), data(problem, points)
        truths = {"exact trace": Ours("exact").result(denoiser, x).nats, "log p": denoiser.log_prob(x, EPS)}
        for law, probes in itertools.product(LAWS, (1, 2, 8)):
            results = [Ours(probes=probes, law=law).result(Opaque(denoiser), x, seed) for seed in range(seeds)]
            nats, errors = torch.stack([r.nats for r in results]), torch.stack([r.standard_error for r in results])
            for name, truth in truths.items():
                off = (nats - truth).abs()
                figures = _mean(off <= Z95 * errors), rms(off), _mean(errors), rms(off / errors.clamp(min=1e-12))
                line(problem, type(sde).__name__, f"{law} {probes}", name, *figures)


def spending(points: int, seeds: int = 3) -> None:
    """Prints the error by what the products of a call are spent on, and the seconds."""
    print()
    head("dimensions", "process", "law", "directions", "rms", "covered", "s")
    for dimension, sde in itertools.product((16, 64, 256), (VP, VE)):
        denoiser = mix64(sde, dimension=dimension)
        x = denoiser.sample_data(points, generator=torch.Generator().manual_seed(0))
        truth = Ours("exact").result(denoiser, x).nats
        for law, directions in SPENDINGS:
            start = time.process_time()
            ours = Ours(probes=PRODUCTS, law=law, directions=directions)
            results = [ours.result(Opaque(denoiser), x, seed) for seed in range(seeds)]
            seconds = (time.process_time() - start) / seeds
            off, errors = torch.stack([r.nats - truth for r in results]), torch.stack([r.standard_error for r in results])
            line(dimension, type(sde).__name__, law, directions, rms(off), _mean(off.abs() <= Z95 * errors), seconds)


def oracle(problems: Sequence[str], points: int) -> None:
    """Prints the errors of exact traces at t_min = 1e-5 and 1e-3."""
    print()
    head("problem", "process", "t_min", "NFE", "largest", "mean", "rms", "rms of the solver", "largest to p_0", "mean to p_0")
    for problem, sde, t_min in itertools.product(problems, (VP, VE), (1e-5, 1e-3)):
        denoiser, x = PROBLEMS[problem](sde), data(problem, points)
        out = Ours("exact", t_min=t_min).result(denoiser, x)
        off, clean = out.nats - denoiser.log_prob(x, t_min), out.nats - PROBLEMS[problem](VP).log_prob(x, 0.0)
        end = out.code * sde.prior_std
        solver = rms(off + denoiser.log_prob(end, sde.t_max) - sde.prior_log_prob(end))
        figures = _largest(off), _mean(off), rms(off), solver, _largest(clean), _mean(clean)
        line(problem, type(sde).__name__, t_min, _mean(out.nfe), *figures)


def gradient(problems: Sequence[str], points: int) -> None:
    """Prints the cost of the gradient in x of the log-likelihood over that of its value, and its error to the score at t_min."""
    print()
    head(
        "problem", "process", "method", "points", "s, value", "s, value and gradient", "ratio", "rms error of the gradient", "rms of score"
    )
    for problem, sde, method in itertools.product(problems, (VP, VE), ("exact", "hutchinson")):
        denoiser, x, ours = PROBLEMS[problem](sde), data(problem, points), Ours(method)
        seconds = ours(denoiser, x, 0).seconds
        start, state = time.process_time(), x.clone().requires_grad_()
        ours.result(denoiser, state, differentiable=True).nats.sum().backward()
        both, score = time.process_time() - start, denoiser.score(x, EPS)
        line(problem, type(sde).__name__, method, len(x), seconds, both, both / seconds, rms(state.grad - score), rms(score))


def networks() -> dict[str, tuple[sd.NetworkDenoiser, Tensor]]:
    """Small networks with the weights they begin with, but for a last layer that is not 0, and states."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = {
            "MLP, 256 points in 64-D": (sd.MLP(64), torch.randn(256, 64, generator=generator)),
            "U-Net, 32 images 1x8x8": (
                sd.UNet(sd.UNetConfig(channels=1, width=32, multipliers=(1, 2), blocks=1)),
                torch.randn(32, 1, 8, 8, generator=generator),
            ),
        }
        for network, _ in built.values():
            nn.init.normal_(network.last.weight, std=0.01)
    return {name: (sd.NetworkDenoiser(network.eval(), VP, sd.Epsilon()), x) for name, (network, x) in built.items()}


def network_costs(seeds: int = 3) -> None:
    """Prints the seconds over the limit on networks."""
    print()
    head("network", "method", "NFE", "calls", "s", "ms of the limit", "over limit")
    runs: dict[str, Run] = {f"ours {law} {k}": Ours(probes=k, law=law) for law, k in itertools.product(LAWS, (1, 8))}
    if version("scipy"):
        runs["score_sde rademacher"] = neighbour(score_sde(eps=EPS), "rademacher")
    for network, (denoiser, x) in networks().items():
        for name, run in runs.items():
            estimates, least = interleaved(run, denoiser, x, seeds)
            seconds, nfe = min(e.seconds for e in estimates), estimates[0].nfe
            line(network, name, nfe, estimates[0].calls, seconds, 1e3 * least, seconds / (nfe * least))


def _mean(values: Tensor) -> float:
    return values.double().mean().item()


def _largest(values: Tensor) -> float:
    return values.abs().max().item()


def rms(values: Tensor) -> float:
    return values.square().mean().sqrt().item()


def head(*names: str) -> None:
    """Begins a table."""
    line(*names)
    print("|---" * len(names) + "|")


def line(*cells: object) -> None:
    """Prints a row of a table, floats to four digits."""
    print("| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--rtol", type=float, nargs="+", default=[1e-5, 1e-3], help="of the table")
    parser.add_argument("--precisions", nargs="+", choices=["float64", "float32"], default=["float64", "float32"], help="of the table")
    parser.add_argument("--only", default="", help="rows of the table with this in their name")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    if not KEEP_HEAP.items() <= os.environ.items():  # see solver_overhead.py
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_HEAP})
    torch.set_num_threads(1)
    libraries = {name: version(name) for name in ("torch", "scipy", "k-diffusion", "flow_matching", "torchdiffeq")}
    print(", ".join(f"{name} {number or 'absent'}" for name, number in libraries.items()) + "\n")
    if "table" in options.parts:
        at_equal_cost(table(options.problems, options.points, options.rtol, options.precisions, options.only))
    if "coverage" in options.parts:
        coverage(options.problems, options.points)
    if "spending" in options.parts:
        spending(min(options.points, FEW))
    if "oracle" in options.parts:
        oracle(options.problems, options.points)
    if "gradient" in options.parts:
        gradient(options.problems, min(options.points, FEW))
    if "networks" in options.parts:
        network_costs()


if __name__ == "__main__":
    main()
