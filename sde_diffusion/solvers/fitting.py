"""Solvers fitted to a model: with 5 to 20 network calls the error of a hand-derived table depends on the model, and can be measured.

On accurate trajectories of the flow a table of the form (1) of unrolled.py is fitted in three steps:

    1. grids         the base's, uniform ones in t^(1/R), and the shortest path of local errors (fitted_grid.py)
    2. weights       row by row: least squares, reweighted so that single paths do not decide, with a ridge chosen on held-out paths
    3. all at once   the levels and weights, then the times of the calls too, by BFGS on the gradient through the sampler

of L = log sum_i q_i e_i^2 + log sum_i q_i e_i, with q_i a path's weight and e_i the root mean square over coordinates of its error at
the end, held below a tenth of the data's size: the first term is what paths near a watershed decide, the second what the others are like.
Whatever is best on held-out paths on the way is kept, and the base itself if nothing is better.

The weights depend on the model, the process and the number of calls, never on a sample: see docs/fitted.md. Bespoke non-stationary solvers
(Shaul et al. 2024, arXiv 2403.01329) fit the same family; DPM-Solver-v3 (Zheng et al. 2023, arXiv 2310.13268) statistics of the model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from scipy.optimize import minimize
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.noise import Noise
from sde_diffusion.sdes.base import check_count
from sde_diffusion.solvers.auto import auto
from sde_diffusion.solvers.base import Solver
from sde_diffusion.solvers.fitted import FitErrors, FittedSolver
from sde_diffusion.solvers.fitted_grid import shortest_grid
from sde_diffusion.solvers.grids import Grid, vp_power
from sde_diffusion.solvers.sampling import sample, steps_within
from sde_diffusion.solvers.tableau import Tableau
from sde_diffusion.solvers.trajectories import Trajectories
from sde_diffusion.solvers.unrolled import Layout, predict

_RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # relative to the size of the data
_REWEIGHTED = 3  # times
_POWERS = (1.0, 1.5, 2.0, 3.0)  # R of the grids tried
_STARTS = 2  # of step 3, of all candidates of step 2
_FIRST = 3  # part of the iterations, for each of these, without the shifts
_PENALTY = 1e-3  # on squared weights' distance from the start, in L: large weights that cancel amplify what is not on the trajectories
_CHECK = 5  # iterations between looks at the held-out paths
_LOST = 0.1  # of the data's size: from there on an error counts no more; else the gradient follows paths that are lost already
_CAP = 30.0  # medians; without, one of 64 held-out paths stopped some fits at their start
_REFUSED = 1e3  # L of parameters that give none
_FLOOR = 1e-12  # of errors relative to the data, below which they are rounding


def fit(
    denoiser: Denoiser,
    nfe: int,
    *,
    base: Solver | None = None,
    grid: Grid | None = None,
    trajectories: Trajectories | None = None,
    shape: Sequence[int] | None = None,
    noise: Noise | None = None,
    generator: torch.Generator | None = None,
    cond: Any = None,
    iterations: int = 100,
    progress: bool = False,
) -> FittedSolver:
    """Fits a solver of `nfe` network calls to a model.

    Args:
        denoiser: the model, on a continuous process; its parameters are left alone.
        nfe: network calls, at least 1.
        base: the solver to beat, a table without noise; by default `auto(sde, nfe)`.
        grid: of the base; by default its own.
        trajectories: accurate paths of the model, shared by all budgets; a quarter is held out.
        shape: (b, *d) to generate b of them with `noise`, `generator` and `cond`, instead; 256 are enough for most models.
        iterations: of the joint refinement, at most.
        progress: whether to show a progress bar on stderr.

    Raises:
        ValueError: for a base that is no table without noise, trajectories of another process, neither or both of trajectories and shape.
    """
    check_count(nfe=nfe, iterations=iterations)
    if (trajectories is None) == (shape is None):
        raise ValueError("pass either trajectories=Trajectories.generate(...), or shape=(b, *d) to generate b of them")
    sde = denoiser.sde
    if base is None:
        choice = auto(sde, nfe)
        base, grid, steps = choice.solver, grid or choice.grid, choice.steps
    else:
        grid = base.default_grid if grid is None else grid
        steps = steps_within(base, sde, nfe, grid)
    standard = base.tableau(sde, grid(sde, steps))
    if standard.noise.any():
        raise ValueError(f"{base} draws noise, and paths are fitted without; pass one with eta=0, or match its law with match(...)")
    if trajectories is None:
        assert shape is not None
        trajectories = Trajectories.generate(denoiser, shape=shape, noise=noise, generator=generator, cond=cond)
    elif trajectories.sde != repr(sde):
        raise ValueError(f"the trajectories are of {trajectories.sde}, the denoiser's process is {sde!r}; generate others")
    elif cond is not None or noise is not None or generator is not None:
        raise ValueError("the trajectories hold their starts and conditions; leave out noise, generator and cond")
    job = _Fit(denoiser, nfe, trajectories, iterations, progress)
    with torch.no_grad():
        reached = sample(denoiser, standard, x=job.held_out.states[0], cond=job.held_out.cond)
        base_error = job.path_errors(reached / float(sde.alpha(sde.t_min)), job.held_out)
    with job.bar:
        loss, v = job.best(standard)
    name = f"{base} on {grid}, {steps} steps"
    improved = v is not None and loss < job.score(base_error)
    if not improved or v is None:
        before = _figures(base_error, job.held_out)
        return FittedSolver(standard, sde, name, FitErrors(*before, *before), improved=False)
    errors = FitErrors(*_figures(base_error, job.held_out), *_figures(job.errors(v, job.held_out), job.held_out))
    return FittedSolver(job.layout.table(v), sde, name, errors)


def _figures(squares: Tensor, paths: Trajectories) -> tuple[float, float]:
    """(weighted root mean square, weighted median) of errors squared."""
    order = squares.argsort()
    middle = order[torch.searchsorted(paths.weights[order].cumsum(0), 0.5).clamp(max=len(order) - 1)]
    return (squares * paths.weights).sum().sqrt().item(), squares[middle].sqrt().item()


def _bar(progress: bool, total: int, n: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=f"fitting {n} calls", unit="iteration", leave=False, disable=not progress)


class _Fit:
    """One fit: the paths and what is tried on them."""

    def __init__(self, denoiser: Denoiser, n: int, trajectories: Trajectories, iterations: int, progress: bool) -> None:
        self.denoiser, self.layout = denoiser, Layout(denoiser.sde, n)
        self.iterations = iterations
        self.first = iterations // _FIRST
        self.bar = _bar(progress, iterations + (_STARTS - 1) * self.first, n)
        self.trajectories = trajectories = trajectories.to(denoiser.like.device)
        self.paths, self.held_out = trajectories.split
        sde = denoiser.sde
        self.alphas = sde.alpha(trajectories.times).tolist()
        self.unit = float((self.paths.states[-1] / self.alphas[-1]).double().square().mean().sqrt())

    def path_errors(self, z: Tensor, paths: Trajectories) -> Tensor:
        """Mean square over coordinates of each path's error at the end, (b,) float64."""
        return (z - paths.states[-1] / self.alphas[-1]).double().square().flatten(1).mean(1).cpu()

    def errors(self, v: Tensor, paths: Trajectories) -> Tensor:
        return self.path_errors(self.layout.run(self.denoiser, paths.states[0] / self.alphas[0], v, paths.cond)[0], paths)

    def criterion(self, squares: Tensor, paths: Trajectories) -> Tensor:
        """L."""
        squares = squares / (1 + squares / (_LOST * self.unit) ** 2) + (_FLOOR * self.unit) ** 2
        return (squares * paths.weights).sum().log() + (squares.sqrt() * paths.weights).sum().log()

    def score(self, squares: Tensor) -> float:
        """L of held-out paths, no error counted as more than so many medians: who of a few paths changes sides is chance."""
        return float(self.criterion(squares.clamp(max=squares.median() * _CAP**2), self.held_out))

    def best(self, standard: Tableau) -> tuple[float, Tensor | None]:
        """The smallest L on held-out paths, and its parameters."""
        with torch.no_grad():
            candidates = [self.greedy(times) for times in self.grids()]
            unrolled = self.layout.unroll(standard) if len(standard.calls) == self.layout.n else None
            if unrolled is not None:
                candidates.append((self.score(self.errors(unrolled, self.held_out)), unrolled))
        candidates = sorted((c for c in candidates if math.isfinite(c[0])), key=lambda c: c[0])[:_STARTS]
        if not candidates:
            return math.inf, None
        columns = torch.arange(len(candidates[0][1]))
        fixed = columns[(columns < self.layout.shifts.start) | (columns >= self.layout.shifts.stop)]
        descents = [_Descent(self, *candidate) for candidate in candidates]
        for descent in descents:
            descent.go(fixed, self.first)
        best = min(descents, key=lambda d: d.loss)
        best.go(columns, self.iterations - self.first)
        return best.loss, best.best

    def grids(self) -> list[Tensor]:
        """Nodes of the trajectories to start from: (n + 1,) indices each."""
        sde, n, nodes = self.denoiser.sde, self.layout.n, self.trajectories.times
        grids = [vp_power(sde, n, R=R) for R in _POWERS]
        grids.append(shortest_grid(self.denoiser, self.paths, n))
        found: dict[tuple[int, ...], Tensor] = {}
        for times in grids:
            indices = (nodes[None] - times[:, None]).abs().argmin(1)
            for k in range(1, n + 1):  # neighbours where two of them have one node
                indices[k] = max(int(indices[k]), int(indices[k - 1]) + 1)
            indices = torch.minimum(indices, len(nodes) - 1 - torch.arange(n, -1, -1))
            found[tuple(indices.tolist())] = indices
        return list(found.values())

    def greedy(self, indices: Tensor) -> tuple[float, Tensor]:
        """Weights row by row on the nodes `indices`: (L on held-out paths, parameters)."""
        layout, sde = self.layout, self.denoiser.sde
        log_rho = -sde.log_snr(self.trajectories.times[indices])
        ratios = (log_rho - layout.log_rho[0]).exp()
        sets = (self.paths, self.held_out)
        starts = [paths.states[0] / self.alphas[0] for paths in sets]
        states, predictions, rows = list(starts), [list[Tensor](), list[Tensor]()], list[Tensor]()
        for k in range(1, layout.n + 1):
            for made, state, paths in zip(predictions, states, sets, strict=True):
                made.append(predict(self.denoiser, state, log_rho[k - 1], paths.cond))
            targets = [paths.states[indices[k]] / self.alphas[int(indices[k])] for paths in sets]
            none = torch.zeros(k - 1, dtype=torch.float64)
            plain = [layout.state(z, ratios[k], made, none) for z, made in zip(starts, predictions, strict=True)]
            rows.append(self._row(predictions, [t - p for t, p in zip(targets, plain, strict=True)]) if k > 1 else none)
            states = [layout.state(z, ratios[k], made, rows[-1]) for z, made in zip(starts, predictions, strict=True)]
        return self.score(self.path_errors(states[1], self.held_out)), layout.vector(log_rho, rows)

    def _row(self, predictions: list[list[Tensor]], residuals: list[Tensor]) -> Tensor:
        """Reweighted least squares of one row, the ridge chosen on held-out paths."""
        features = [torch.stack([(a - b).double().flatten(1) for a, b in itertools.pairwise(m)], -1).cpu() for m in predictions]
        wanted = [r.double().flatten(1).cpu() for r in residuals]
        best, chosen = math.inf, torch.zeros(features[0].shape[-1], dtype=torch.float64)
        for ridge in _RIDGES:
            q, w = self.paths.weights, chosen
            damping = (ridge * self.unit) ** 2 * wanted[0].shape[1] * torch.eye(len(chosen), dtype=torch.float64)
            for _ in range(_REWEIGHTED):
                weighted = features[0] * (q / q.sum())[:, None, None]
                gram = torch.einsum("bdi,bdj->ij", weighted, features[0]) + damping
                w = torch.linalg.solve(gram, torch.einsum("bdi,bd->i", weighted, wanted[0]))
                left = (wanted[0] - features[0] @ w).square().mean(1).sqrt()
                q = self.paths.weights / left.clamp(min=left.median().clamp(min=_FLOOR * self.unit))
            loss = self.score((wanted[1] - features[1] @ w).square().mean(1))
            if loss < best:
                best, chosen = loss, w
        return chosen


class _Descent:
    """BFGS from one start on L of the paths; `best` is the best of all looks at the held-out paths, `loss` its L there."""

    def __init__(self, job: _Fit, loss: float, v: Tensor) -> None:
        self.job, self.loss, self.start, self.best = job, loss, v, v
        with torch.no_grad():
            _, predictions = job.layout.run(job.denoiser, job.paths.states[0] / job.alphas[0], v, job.paths.cond)
        self.scale = job.layout.scale(predictions, job.paths.weights, job.unit)
        self.u = numpy.zeros(len(v))
        self.curvature = numpy.eye(len(v))  # inverse Hessian: what is learnt of it without the shifts is kept with them

    def v(self, u: numpy.ndarray) -> Tensor:
        return self.start + self.scale @ torch.from_numpy(u)

    def value(self, u: numpy.ndarray) -> tuple[float, numpy.ndarray]:
        v = self.v(u).requires_grad_()
        change = (v - self.start)[self.job.layout.shifts.stop :]
        with torch.enable_grad():
            loss = self.job.criterion(self.job.errors(v, self.job.paths), self.job.paths) + _PENALTY * change.square().sum()
            (gradient,) = torch.autograd.grad(loss, v)
        if not (loss.isfinite() and gradient.isfinite().all()):
            return _REFUSED, numpy.zeros_like(u)
        return loss.item(), (self.scale.T @ gradient).numpy()

    def go(self, columns: Tensor, iterations: int) -> None:
        """Moves some of the parameters."""
        at, count = columns.numpy(), itertools.count(1)
        block = numpy.ix_(at, at)

        def full(part: numpy.ndarray) -> numpy.ndarray:
            u = self.u.copy()
            u[at] = part
            return u

        def value(part: numpy.ndarray) -> tuple[float, numpy.ndarray]:
            loss, gradient = self.value(full(part))
            return loss, gradient[at]

        def look(part: numpy.ndarray) -> None:
            self.job.bar.update()
            if next(count) % _CHECK == 0:
                self.look(full(part))

        curvature = (self.curvature[block] + self.curvature[block].T) / 2
        options = {"maxiter": iterations, "hess_inv0": curvature}
        result = minimize(value, self.u[at], jac=True, method="BFGS", callback=look, options=options)
        self.u, self.curvature[block] = full(result.x), result.hess_inv
        self.look(self.u)

    @torch.no_grad()
    def look(self, u: numpy.ndarray) -> None:
        """Compares with the best so far on the held-out paths."""
        v = self.v(u)
        if self.job.layout.valid(v):
            loss = self.job.score(self.job.errors(v, self.job.held_out))
            if loss < self.loss:
                self.loss, self.best = loss, v
