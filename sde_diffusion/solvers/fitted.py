"""A table fitted to a model, see fitting.py: a solver like any other, for one process and one number of calls, kept as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from sde_diffusion import expressions
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.solvers.base import Solver
from sde_diffusion.solvers.grids import Grid
from sde_diffusion.solvers.grids import grid as grid_of
from sde_diffusion.solvers.tableau import Tableau


class FitErrors(NamedTuple):
    """On held-out trajectories: root mean square over paths, and median over them of a path's own, of the base and of the fitted table."""

    base_rms: float
    base_median: float
    rms: float
    median: float


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FittedSolver(Solver):
    """A table fitted to a model, for one process and one number of calls; made by `fit`.

    Args:
        table: what is run.
        sde: the process that it was fitted for.
        base: the solver and grid that it was fitted against.
        errors: of both on held-out trajectories.
        improved: False where fitting did not beat the base on held-out trajectories, whose table this then is.
    """

    table: Tableau
    sde: AffineSDE
    base: str
    errors: FitErrors
    improved: bool = True
    order: ClassVar[int] = 0  # one budget has no order

    def __repr__(self) -> str:
        verdict = f"{self.errors.rms / self.errors.base_rms:.2g} times the error" if self.improved else "the table"
        return f"FittedSolver({self.nfe} calls, {self.sde!r}, {verdict} of {self.base})"

    def __str__(self) -> str:
        return f"FittedSolver({self.nfe})"

    @property
    def nfe(self) -> int:
        """Network calls."""
        return len(self.table.calls)

    @property
    def default_steps(self) -> int:  # type: ignore[override]
        return len(self.table.times) - 1

    @property
    def default_grid(self) -> Grid:  # type: ignore[override]
        times, n = self.table.times, self.default_steps

        @grid_of
        def fitted(sde: AffineSDE, steps: int, *, t_min: float | None = None, t_max: float | None = None) -> Tensor:
            if steps != n:
                raise ValueError(f"a fitted table has its own {n} steps, got steps={steps}; leave out steps and nfe, or fit another budget")
            return times.clone()

        return fitted

    def tableau(self, sde: AffineSDE, grid: Tensor) -> Tableau:
        if sde != self.sde:
            raise ValueError(f"the table was fitted for {self.sde!r}, got {sde!r}; use denoiser.under({self.sde!r}), or fit again")
        if not torch.equal(grid, self.table.times):
            raise ValueError("a fitted table has its own times; leave out grid")
        return self.table

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes JSON.

        Raises:
            FileExistsError: if there is a file at `path`.
        """
        with open(path, "x", encoding="utf-8") as file:
            json.dump(self.columns(), file, indent=1)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> FittedSolver:
        """Reads what `save` wrote.

        Raises:
            ValueError: if the file is something else.
        """
        try:
            return FittedSolver.from_columns(json.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path} holds no fitted solver: {error}; write one with FittedSolver.save") from error

    def columns(self) -> dict[str, Any]:
        """Everything as lists and dicts of numbers and strings, for JSON."""
        content = {"sde": repr(self.sde), "base": self.base, "errors": self.errors._asdict(), "improved": self.improved}
        return {"fitted": content, "table": self.table.columns()}

    @staticmethod
    def from_columns(columns: Mapping[str, Any]) -> FittedSolver:
        """The inverse of `columns`.

        Raises:
            ValueError: for something else.
        """
        try:
            fields = columns["fitted"]
            sde, errors = expressions.build(fields["sde"]), FitErrors(**fields["errors"])
            return FittedSolver(Tableau.from_columns(columns["table"]), sde, fields["base"], errors, fields["improved"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"these are not the columns of a fitted solver ({type(error).__name__}: {error})") from error
