"""Accurate trajectories of the probability flow: what a solver is fitted to.

The largest errors of a solver with few calls are those of paths that pass close to a watershed between two modes: one in a thousand starts,
which a small set of fair draws does not have. The starts are therefore chosen from a larger pool by how much a coarse and a finer solver
disagree, d_i, without return and with the probability

    q_i = 1/2 1/n + 1/2 d_i / sum_j d_j                                                          (1)

and weigh 1/q_i, so that weighted means over them estimate means over fair starts.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.noise import Noise, make_noise
from sde_diffusion.sdes.base import check_count
from sde_diffusion.solvers.adaptive import AdaptiveODE, select
from sde_diffusion.solvers.auto import auto
from sde_diffusion.solvers.grids import vp_power
from sde_diffusion.solvers.sampling import sample, trajectory
from sde_diffusion.solvers.unrolled import check_continuous

NODES = 48  # times at which states are kept: between them a fitted grid is refined by its gradient anyway
_COARSE, _FINE = 10, 20  # calls of the two solvers that find the hard starts
_BATCH = 1024
_HELD_OUT = 4  # every fourth path


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectories:
    """Solutions of the flow from weighted starts, on nodes from t_max to t_min.

    Args:
        sde: the process, by its expression.
        times: (m + 1,) decreasing, float64.
        states: (m + 1, b, *d); states[0] are the starts.
        weights: (b,) float64, summing to 1.
        cond: condition of each path: None, or a tensor (b, ...).
    """

    sde: str
    times: Tensor
    states: Tensor
    weights: Tensor
    cond: Tensor | None = None

    @staticmethod
    @torch.no_grad()
    def generate(
        denoiser: Denoiser,
        *,
        shape: Sequence[int],
        pool: int = 8,
        tolerance: float | None = None,
        nodes: int = NODES,
        noise: Noise | None = None,
        generator: torch.Generator | None = None,
        cond: Any = None,
    ) -> Trajectories:
        """Solves the flow from starts drawn by (1).

        Args:
            denoiser: the model.
            shape: (b, *d): number and shape of the paths; a quarter of them is held out by `fit`.
            pool: starts drawn per path chosen, >= 1; 1 takes fair draws.
            tolerance: relative and absolute, of `AdaptiveODE`; by default 1e-9 in float64 and 1e-5 in float32.
            nodes: how many steps the kept states are apart in all.
            noise: the source of the starts; `generator` may be given instead.
            cond: None or a tensor (b, ...), from whose rows each path takes one.

        Raises:
            ValueError: for a chain, whose network knows no times between its nodes, or a shape that is none.
        """
        check_count(pool=pool, nodes=nodes)
        sde, like = denoiser.sde, denoiser.like
        check_continuous(sde, "trajectories need")
        if len(shape) < 2 or min(shape) < 1:
            raise ValueError(f"shape must be (b, *d): how many paths of which shape, got {tuple(shape)}")
        b = shape[0]
        if cond is not None and (not isinstance(cond, Tensor) or cond.ndim == 0 or len(cond) != b):
            raise ValueError(f"cond must be a tensor of {b} rows, one per path, got {cond!r:.60}")
        draw = make_noise(noise, generator=generator)
        x = sde.prior_sample((b * pool, *shape[1:]), draw, device=like.device, dtype=like.dtype)
        given = None if cond is None else cond.repeat(pool, *[1] * (cond.ndim - 1))
        chosen, weights = _choose(_disagreement(denoiser, x, given), b) if pool > 1 else (torch.arange(b), torch.full((b,), 1 / b).double())
        x = x[chosen.to(x.device)]
        given = None if given is None else select(given, chosen, len(given))
        tolerance = tolerance or (1e-9 if x.dtype == torch.float64 else 1e-5)
        flow = AdaptiveODE(rtol=tolerance, atol=tolerance)
        parts = [
            trajectory(denoiser, flow, x=x[i : i + _BATCH], grid=vp_power(), steps=nodes, cond=_rows(given, i))[1]
            for i in range(0, b, _BATCH)
        ]
        times = vp_power(sde, nodes)
        return Trajectories(repr(sde), times, torch.cat(parts, 1), weights / weights.sum(), given)

    def __len__(self) -> int:
        return len(self.weights)

    def __str__(self) -> str:
        return f"{len(self)} trajectories of shape {tuple(self.states.shape[2:])} of {self.sde} at {len(self.times)} times"

    @functools.cached_property
    def split(self) -> tuple[Trajectories, Trajectories]:
        """(to fit on, held out); a quarter is held out."""
        held_out = torch.arange(len(self)) % _HELD_OUT == _HELD_OUT - 1
        return self[~held_out], self[held_out]

    def __getitem__(self, rows: Tensor) -> Trajectories:
        """Some of the paths, their weights summing to 1 again."""
        rows = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        weights, cond = self.weights[rows], None if self.cond is None else select(self.cond, rows, len(self))
        return Trajectories(self.sde, self.times, self.states[:, rows.to(self.states.device)], weights / weights.sum(), cond)

    def to(self, device: torch.device | str) -> Trajectories:
        """The same with states and conditions on a device; times and weights stay on the CPU."""
        cond = None if self.cond is None else self.cond.to(device)
        return Trajectories(self.sde, self.times, self.states.to(device), self.weights, cond)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes safetensors.

        Raises:
            FileExistsError: if there is a file at `path`.
        """
        from safetensors.torch import save_file

        if Path(path).exists():
            raise FileExistsError(f"{path} exists; load it with Trajectories.load, or choose another name")
        tensors = {"times": self.times, "states": self.states, "weights": self.weights, "cond": self.cond}
        temporary = Path(f"{path}.writing")
        save_file(
            {k: v.cpu().contiguous() for k, v in tensors.items() if v is not None}, temporary, {"sde": self.sde, "what": "trajectories"}
        )
        os.replace(temporary, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Trajectories:
        """Reads what `save` wrote.

        Raises:
            ValueError: if the file is something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                return Trajectories(file.metadata()["sde"], **{key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no trajectories: {error}; write them with Trajectories.save") from error


def _disagreement(denoiser: Denoiser, x: Tensor, cond: Any) -> Tensor:
    """d of (1): by how much the ends of two solvers differ, (n,) float64 on the CPU."""
    plans = [auto(denoiser.sde, nfe) for nfe in (_COARSE, _FINE)]
    parts = []
    for i in range(0, len(x), _BATCH):
        coarse, fine = (
            sample(denoiser, solver, x=x[i : i + _BATCH], grid=grid, steps=steps, cond=_rows(cond, i)) for solver, grid, steps in plans
        )
        parts.append((coarse - fine).double().flatten(1).norm(dim=1))
    return torch.cat(parts).cpu()


def _rows(cond: Any, i: int) -> Any:
    return None if cond is None else cond[i : i + _BATCH]


def _choose(d: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """b of the starts and their weights 1/q, drawn systematically in the order of d, so that all hardnesses are represented."""
    order = d.argsort()
    q = 0.5 / len(d) + 0.5 * d[order] / d.sum().clamp(min=torch.finfo(d.dtype).tiny)
    for _ in range(8):  # who would be drawn more than once is drawn once, and leaves its surplus to the others
        free = q * b < 1
        q = torch.where(free, q * (b - (~free).sum()) / b / q[free].sum(), 1 / b)
    at = torch.searchsorted(q.cumsum(0) * b, torch.arange(b, dtype=torch.float64) + 0.5).clamp(max=len(d) - 1).unique()
    return order[at], 1 / q[at]
