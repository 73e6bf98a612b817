"""The table of numbers that a solver is.

Row i of a tableau may evaluate the denoiser at time t_i, remembers the prediction

    p_0 = px_i x + px0_i x0_hat(x, t_i)                                                          (1)

in front of the earlier ones p_1, p_2, ..., and replaces the state by

    x <- x_i x + sum_j p_ij p_j + noise_i z                                                      (2)

where z is fresh standard normal noise. (0, 1) in (1) remembers x0_hat itself, (1/sigma, -alpha/sigma) the noise prediction; a multistep
solver interpolates whichever it likes. With px0_i = 0 nothing is evaluated: the prediction is known from the state alone; with (0, 0) none
is made. The state at which a step began is not needed: what a Runge-Kutta stage adds to it is a sum of predictions, which a later row
takes away again.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Row(NamedTuple):
    """A row of a tableau as Python numbers, ready to run; `end` is None where no step ends, `reused` tells if a later row uses p_0."""

    p_x: float
    p_x0: float
    x: float
    p: tuple[float, ...]
    noise: float
    end: float | None
    reused: bool


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Tableau:
    """The table (1), (2): r rows, float64, on the CPU.

    Args:
        t: (r,) where row i makes its prediction; NaN: it makes none.
        x: (r,) weight of the current state.
        p: (r, k) weights of the k latest predictions, newest first.
        noise: (r,) weight of fresh standard normal noise; by default 0.
        ends: (r,) the time that the state reaches if a step ends here, else NaN.
        p_x: (r,) weight of the state in the prediction that is remembered; by default 0.
        p_x0: (r,) weight of x0_hat in it; by default 1 where t is a time.

    Raises:
        ValueError: for a wrong shape or dtype, or a weight that is not finite.
    """

    t: Tensor
    x: Tensor
    p: Tensor
    ends: Tensor
    noise: Tensor = None  # type: ignore[assignment]
    p_x: Tensor = None  # type: ignore[assignment]
    p_x0: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        r = len(self.t)
        for name in ("noise", "p_x"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, torch.zeros_like(self.t))
        if self.p_x0 is None:
            object.__setattr__(self, "p_x0", (~self.t.isnan()).to(self.t.dtype))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value.dtype != torch.float64 or value.shape[:1] != (r,) or value.ndim != (2 if field.name == "p" else 1):
                raise ValueError(f"Tableau.{field.name} must be float64 with {r} rows, got {value.dtype} {tuple(value.shape)}")
        for name in ("x", "p", "noise", "p_x", "p_x0"):
            if not getattr(self, name).isfinite().all():
                row = int((~getattr(self, name).reshape(r, -1).isfinite().all(1)).nonzero()[0])
                raise ValueError(
                    f"row {row} of the tableau (t={self.t[row].item():.4g}) has a weight {name} that is not finite: the solver divides by "
                    "sigma or alpha = 0 there; end the grid at t_min > 0 and start it at the SDE's t_max"
                )

    def __len__(self) -> int:
        return len(self.t)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tableau) or self.p.shape != other.p.shape:
            return NotImplemented if not isinstance(other, Tableau) else False
        names = [field.name for field in dataclasses.fields(self)]
        return all(torch.allclose(getattr(self, n), getattr(other, n), 0, 0, equal_nan=True) for n in names)

    __hash__ = None  # type: ignore[assignment]

    @functools.cached_property
    def calls(self) -> Tensor:
        """The times at which the denoiser is evaluated, in order."""
        return self.t[self.p_x0 != 0]

    @functools.cached_property
    def times(self) -> Tensor:
        """The time of the first prediction and those at which steps end."""
        return torch.cat([self.t[~self.t.isnan()][:1], self.ends[~self.ends.isnan()]])

    @functools.cached_property
    def rows(self) -> list[Row]:
        """The table as Python numbers."""
        columns = [c.tolist() for c in (self.p_x, self.p_x0, self.x, self.p, self.noise, self.ends)]
        rows: list[Row] = []
        kept: list[int] = []
        for i, (p_x, p_x0, x, p, noise, end) in enumerate(zip(*columns, strict=True)):
            if p_x or p_x0:
                kept.append(i)
            for age, weight in enumerate(p[: len(kept)]):
                if weight and kept[-1 - age] != i:
                    rows[kept[-1 - age]] = rows[kept[-1 - age]]._replace(reused=True)
            rows.append(Row(p_x, p_x0, x, tuple(p), noise, None if math.isnan(end) else end, False))
        return rows

    def __str__(self) -> str:
        columns = {"t": self.t, "p_x": self.p_x, "p_x0": self.p_x0, "x": self.x}
        if not self.p_x.any():
            del columns["p_x"], columns["p_x0"]
        columns.update({f"p[-{j}]" if j else "p": weights for j, weights in enumerate(self.p.unbind(1))})
        columns.update({"noise": self.noise, "ends": self.ends})
        values = torch.stack(list(columns.values()), 1).tolist()
        rows = [["." if math.isnan(value) else f"{value:.6g}" for value in row] for row in values]
        return "\n".join("".join(f"{cell:>14}" for cell in row) for row in [list(columns), *rows])

    def __getitem__(self, rows: slice | Tensor) -> Tableau:
        """Some of the rows."""
        return Tableau(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})

    def end_rows(self) -> Tensor:
        """The numbers of the rows that end a step, (n,)."""
        return (~self.ends.isnan()).nonzero()[:, 0]

    @staticmethod
    def interleave(tables: Sequence[Tableau]) -> Tableau:
        """The first rows of all tables, then the second rows, and so on; the tables are of one shape."""
        names = [field.name for field in dataclasses.fields(Tableau)]
        return Tableau(**{name: torch.stack([getattr(table, name) for table in tables], 1).flatten(0, 1) for name in names})

    @staticmethod
    def concatenate(tables: Sequence[Tableau]) -> Tableau:
        """The rows of all tables, one after the other."""
        width = max(table.p.shape[1] for table in tables)
        parts = {field.name: [getattr(table, field.name) for table in tables] for field in dataclasses.fields(Tableau)}
        parts["p"] = [torch.nn.functional.pad(w, (0, width - w.shape[1])) for w in parts["p"]]
        return Tableau(**{name: torch.cat(values) for name, values in parts.items()})

    def columns(self) -> dict[str, list[Any]]:
        """The table as lists, None for NaN."""
        columns = {field.name: getattr(self, field.name).tolist() for field in dataclasses.fields(self)}
        for name in ("t", "ends"):
            columns[name] = [None if math.isnan(value) else value for value in columns[name]]
        return columns

    @staticmethod
    def from_columns(columns: Mapping[str, Sequence[Any]]) -> Tableau:
        """The inverse of `columns`."""
        times = {name: [math.nan if value is None else value for value in columns[name]] for name in ("t", "ends")}
        return Tableau(**{name: torch.tensor(values, dtype=torch.float64) for name, values in {**columns, **times}.items()})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the table as JSON, one list per column, null for NaN; every float is written so that it reads back equal.

        Raises:
            FileExistsError: if there is a file at `path`.
        """
        with open(path, "x", encoding="utf-8") as file:
            json.dump(self.columns(), file, indent=1)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Tableau:
        """Reads what `save` wrote.

        Raises:
            ValueError: if the file is not a tableau.
        """
        try:
            return Tableau.from_columns(json.loads(Path(path).read_text(encoding="utf-8")))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is not a tableau: {error}; write one with Tableau.save") from error
