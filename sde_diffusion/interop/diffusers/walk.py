"""A table run by whoever owns the loop, and hands over one network output after the other.

Between two calls there is nothing but rows (solvers/tableau.py), so with x0_hat = skip x + out F from the output F at the state x

    p_0 = p_x x + p_x0 x0_hat,    x <- x_i x + sum_j p_ij p_j + noise_i z                        (1)

for the call's row and those up to the next, and what is kept are the number of the call and the latest predictions. Heun's second stage
or a corrector is a row like any other, and no case is distinguished. Rows in front of the first call (those of `Truncate` and
`AnalyticFirstStep`) are linear, so the first call's state is the start times a number.
"""

from __future__ import annotations

import collections
import itertools
import math
import statistics

import torch
from torch import Tensor

from sde_diffusion.noise import Noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.solvers.base import Solver
from sde_diffusion.solvers.tableau import Row, Tableau

_ROUNDING = 1e-9  # of times


class Walk:
    """One run through the table of a solver.

    Args:
        solver: one that is a table.
        sde: the process.
        grid: times, (n + 1,).

    Attributes:
        times: of the calls.
        order: calls of a step, that of most.
        std: standard deviation of the state of the first call, to which the rows in front of it have brought the prior's; a grid that
            begins below t_max starts from less, by the ratio of sigma.
        next: number of the next call; None before the first.

    Raises:
        ValueError: if the solver has no table.
    """

    def __init__(self, solver: Solver, sde: AffineSDE, grid: Tensor) -> None:
        self._solver, self._sde, self._grid = solver, sde, grid
        self._table = solver.tableau(sde, grid)
        self.times = self._table.calls
        self._calls = _calls(self._table)
        ended = (~self._table.ends.isnan()).long()
        self._steps = (ended.cumsum(0) - ended)[self._calls].tolist()  # that each call belongs to
        self.order = statistics.mode(collections.Counter(self._steps).values())
        start = sde.prior_std * float(sde.sigma(grid[0]) / sde.sigma(sde.t_max))
        self._lead, self.std = _lead(self._table.rows[: self._calls[0]], start)
        self.next: int | None = None

    def starts_step(self, i: int) -> bool:
        """Whether call i is the first of its step."""
        return i == 0 or self._steps[i] != self._steps[i - 1]

    def begin(self, i: int) -> None:
        """Lets the run begin at call i; a solver that has used predictions from before then makes a table for the rest of the grid.

        Raises:
            ValueError: where it cannot.
        """
        table, known = self._table[self._calls[i] :], self._lead if i == 0 else []
        if _lacks(table, len(known)):
            table = self._rest(i)
        self._rows = [table.rows[a:b] for a, b in itertools.pairwise([*_calls(table), len(table)])]
        self._latest: collections.deque[Tensor] = collections.deque(maxlen=max(table.p.shape[1], 1))
        self._known, self._begin, self.next = known, i, i

    def advance(self, x: Tensor, raw: Tensor, skip: float, out: float, noise: Noise) -> Tensor:
        """The state of the call after `next`, or at last the sample, by (1)."""
        assert self.next is not None
        if self.next == self._begin:
            self._latest.extend(x * p for p in self._known)
        for row in self._rows[self.next - self._begin]:
            if row.p_x or row.p_x0:  # not by x0_hat, which at high noise is a difference of two large numbers
                a, b = row.p_x + row.p_x0 * skip, row.p_x0 * out
                self._latest.appendleft(torch.add(x * a, raw, alpha=b) if b else x * a)
            x = x * row.x
            for weight, p in zip(row.p, self._latest, strict=False):
                if weight:
                    x.add_(p, alpha=weight)
            if row.noise:
                x.add_(noise(x), alpha=row.noise)
        self.next += 1
        return x

    def _rest(self, i: int) -> Tableau:
        """The rows from call i on of a table that begins with its step."""
        error = ValueError(
            f"{self._solver} cannot begin at network call {i} of {len(self.times)}, which needs predictions from before; "
            "begin at the first call of a step, a multiple of `order`, or take another solver"
        )
        ends = self._table.ends[: self._calls[i]]
        ends = ends[~ends.isnan()]
        if not len(ends):
            raise error
        try:
            table = self._solver.tableau(self._sde, self._grid[int((self._grid - ends[-1]).abs().argmin()) :])
        except ValueError as cause:
            raise error from cause
        table, times = table[_calls(table)[0] :], self.times[i:]
        if len(table.calls) != len(times) or not torch.allclose(table.calls, times, 0, _ROUNDING) or _lacks(table, 0):
            raise error
        return table


def _calls(table: Tableau) -> list[int]:
    """The rows that call the network."""
    return (table.p_x0 != 0).nonzero()[:, 0].tolist()


def _lead(rows: list[Row], std: float) -> tuple[list[float], float]:
    """After rows without a call, on a state of standard deviation std: predictions as multiples of the state, newest first, and its std."""
    known: list[float] = []
    for row in rows:
        if row.p_x:
            known.insert(0, row.p_x)
        scale = row.x + sum(weight * p for weight, p in zip(row.p, known, strict=False))
        std = math.hypot(scale * std, row.noise)
        known = [] if row.noise else [p / scale for p in known]
    return known, std


def _lacks(table: Tableau, known: int) -> bool:
    """Whether a table uses predictions from before its first row, of which `known` are there."""
    for row in table.rows:
        known += bool(row.p_x or row.p_x0)
        if any(row.p[known:]):
            return True
    return False
