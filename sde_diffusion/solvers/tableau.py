"""The table of numbers that a solver is.

Row i of a tableau evaluates the denoiser at time t_i, if it has one, and replaces the state by

    x <- x_i x + base_i x_base + sum_j x0_ij x0_hat_j + noise_i z                                (1)

where x_base is the state at which the current step began, x0_hat_0, x0_hat_1, ... are the latest predictions, the newest first, and z
is fresh standard normal noise. Where a row ends a step, x_base becomes x.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Tableau:
    """The table (1): r rows, float64, on the CPU.

    Args:
        t: (r,) where row i evaluates the denoiser; NaN: it evaluates nothing.
        x: (r,) weight of the current state.
        base: (r,) weight of the state at the start of the current step.
        x0: (r, k) weights of the k latest predictions, newest first.
        noise: (r,) weight of fresh standard normal noise.
        ends: (r,) the time that the state reaches if a step ends here, else NaN.
    """

    t: Tensor
    x: Tensor
    base: Tensor
    x0: Tensor
    noise: Tensor
    ends: Tensor

    def __post_init__(self) -> None:
        r = len(self.t)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value.dtype != torch.float64 or value.shape[:1] != (r,) or value.ndim != (2 if field.name == "x0" else 1):
                raise ValueError(f"Tableau.{field.name} must be float64 with {r} rows, got {value.dtype} {tuple(value.shape)}")
        for name in ("x", "base", "x0", "noise"):
            if not getattr(self, name).isfinite().all():
                row = int((~getattr(self, name).reshape(r, -1).isfinite().all(1)).nonzero()[0])
                raise ValueError(
                    f"row {row} of the tableau (t={self.t[row].item():.4g}) has a weight {name} that is not finite: the solver divides by "
                    "sigma or alpha = 0 there; end the grid at t_min > 0 and start it at the SDE's t_max"
                )

    def __len__(self) -> int:
        return len(self.t)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tableau):
            return NotImplemented
        names = [field.name for field in dataclasses.fields(self)]
        return all(torch.allclose(getattr(self, n), getattr(other, n), 0, 0, equal_nan=True) for n in names)

    __hash__ = None  # type: ignore[assignment]

    @functools.cached_property
    def calls(self) -> Tensor:
        """The times at which the denoiser is evaluated, in order."""
        return self.t[~self.t.isnan()]

    @functools.cached_property
    def reused(self) -> list[bool]:
        """Whether each evaluation is used by a row after its own."""
        reused: list[bool] = []
        for evaluates, weights in zip((~self.t.isnan()).tolist(), self.x0.tolist(), strict=True):
            if evaluates:
                reused.append(False)
            for age, weight in enumerate(weights[: len(reused)]):
                if weight and not (evaluates and age == 0):
                    reused[-1 - age] = True
        return reused

    @functools.cached_property
    def rows(self) -> list[tuple[bool, float, float, tuple[float, ...], float, float | None]]:
        """The table as Python numbers, ready to run: (evaluates, x, base, x0, noise, ends or None) per row."""
        ends = [None if math.isnan(end) else end for end in self.ends.tolist()]
        weights = [tuple(row) for row in self.x0.tolist()]
        columns = ((~self.t.isnan()).tolist(), self.x.tolist(), self.base.tolist(), weights, self.noise.tolist(), ends)
        return list(zip(*columns, strict=True))

    def __str__(self) -> str:
        width = self.x0.shape[1]
        head = ["t", "x", "base", *(f"x0[-{j}]" if j else "x0" for j in range(width)), "noise", "ends"]
        columns = [self.t, self.x, self.base, *self.x0.unbind(1), self.noise, self.ends]
        rows = [["." if math.isnan(value) else f"{value:.6g}" for value in row] for row in torch.stack(columns, 1).tolist()]
        return "\n".join("".join(f"{cell:>12}" for cell in row) for row in [head, *rows])

    def __getitem__(self, rows: slice) -> Tableau:
        """Some of the rows."""
        return Tableau(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))

    @staticmethod
    def interleave(tables: Sequence[Tableau]) -> Tableau:
        """The first rows of all tables, then the second rows, and so on; the tables are of one shape."""
        names = [field.name for field in dataclasses.fields(Tableau)]
        return Tableau(*(torch.stack([getattr(table, name) for table in tables], 1).flatten(0, 1) for name in names))

    @staticmethod
    def concatenate(tables: Sequence[Tableau]) -> Tableau:
        """The rows of all tables, one after the other."""
        width = max(table.x0.shape[1] for table in tables)
        parts = {field.name: [getattr(table, field.name) for table in tables] for field in dataclasses.fields(Tableau)}
        parts["x0"] = [torch.nn.functional.pad(w, (0, width - w.shape[1])) for w in parts["x0"]]
        return Tableau(**{name: torch.cat(values) for name, values in parts.items()})
