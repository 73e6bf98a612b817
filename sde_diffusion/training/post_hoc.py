"""Averages of the weights of any width, after training (post-hoc EMA; Karras et al. 2024, arXiv 2312.02696).

An average is linear in the history of the weights, so a sum of stored averages is the average whose profile is the sum of their profiles.
With power-function profiles p_i(tau) = (gamma_i + 1) tau^gamma_i / t_i^(gamma_i+1) on [0, t_i], stored at steps t_i, the weights w_i that
come closest to a wanted profile p minimise

    || sum_i w_i p_i - p ||^2    where    sum_i w_i = 1,                                                                           (1)
    A w = b + l 1,    A_ij = <p_i, p_j>,    b_i = <p_i, p>,

with the number l that makes them sum to 1: weights that never moved are to be found unmoved. (The sum is ours; without it, they were off
by 0.5 % where the misfit below is 3 %.) As tau^a is integrated from 0 to m = min(t_i, t_j), with M = max(t_i, t_j),

    <p_i, p_j> = (gamma_i + 1)(gamma_j + 1) / (gamma_i + gamma_j + 1) (m/t_i)^gamma_i (m/t_j)^gamma_j / M.                         (2)

How well (1) can be met is known without any weights, from w alone: || sum_i w_i p_i - p || / ||p|| is the misfit.

    workdir/snapshots/00001000/power-0.05.safetensors      with profile and step in its metadata
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from sde_diffusion.expressions import build
from sde_diffusion.files import write_atomically
from sde_diffusion.training.ema import WIDEST, PowerAverage

if TYPE_CHECKING:
    from sde_diffusion.training.ema import Averages

SNAPSHOTS = "snapshots"
MISFIT = 0.05
"""The largest misfit that counts as a reconstruction."""

WIDTHS = np.geomspace(1e-3, WIDEST, 60)
"""Those that are tried, to say which can be reconstructed."""


@dataclass(frozen=True)
class Snapshot:
    """A stored average.

    Args:
        path: of its file.
        profile: which average.
        step: number of updates done.
    """

    path: Path
    profile: PowerAverage
    step: int


def save_snapshot(workdir: Path, step: int, averages: Averages, *, dtype: torch.dtype | None = None, main: bool = True) -> list[Path]:
    """Stores the power-function averages of a step, each file as a whole or not at all.

    Args:
        workdir: folder of the run.
        step: number of updates done.
        averages: of the weights.
        dtype: of the floats in the file, such as torch.float16 at half the size, which costs widths between the stored ones 2e-4 of the
            weights, and narrow ones, made of large w of either sign, more: 3e-3 at 0.02 (bfloat16: eight times that); None for theirs.
        main: whether this process writes; where weights are sharded, all are to call, as the parts are gathered.

    Raises:
        ValueError: where there are no power-function averages.
    """
    from safetensors.torch import save

    profiles = [profile for profile in averages.profiles if isinstance(profile, PowerAverage)]
    if not profiles:
        raise ValueError(f"the averages {', '.join(averages.names)} have no power-function average to store; set ema_power=(0.05, 0.1)")
    folder, paths = workdir / SNAPSHOTS / f"{step:08d}", []
    for profile in profiles:
        tensors = {}
        for key, value in averages.network(profile.name).state_dict().items():
            value = value.full_tensor() if isinstance(value, DTensor) else value
            tensors[key] = value.detach().to("cpu", dtype if value.is_floating_point() else None, copy=True).contiguous()
        paths.append(folder / f"{profile.name}.safetensors")
        if main:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(paths[-1], save(tensors, metadata={"profile": repr(profile), "step": str(step)}))
    return paths


def snapshots(workdir: Path) -> list[Snapshot]:
    """The stored averages of a run, oldest first."""
    from safetensors import safe_open

    found = []
    for path in sorted((workdir / SNAPSHOTS).glob("[0-9]*/power-*.safetensors")):
        with safe_open(path, "pt") as file:
            about = file.metadata()
        found.append(Snapshot(path, build(about["profile"], {"PowerAverage": PowerAverage}), int(about["step"])))
    return sorted(found, key=lambda snapshot: (snapshot.step, snapshot.profile.std))


def reconstruct(workdir: Path, std: float, *, step: int | None = None) -> dict[str, Tensor]:
    """The state dict of the power-function average of a width, as if it had been tracked: (1).

    One that is stored is returned as it is. Floats are float32 at least; what is not averaged comes from the snapshot nearest to the step.

    Args:
        workdir: folder of a run with snapshots.
        std: relative width, in (0, 12^(-1/2)].
        step: number of updates done; None for the last snapshot's.

    Raises:
        FileNotFoundError: where there are no snapshots.
        ValueError: for a step after the last snapshot, and a width that misses its profile by more than 5 %: the message says which do not.
    """
    from safetensors.torch import load_file

    stored, profile = snapshots(workdir), PowerAverage(std)
    if not stored:
        raise FileNotFoundError(
            f"no snapshots in {workdir / SNAPSHOTS}; train with snapshot_every and two widths, such as ema_power=(0.05, 0.1)"
        )
    last = stored[-1].step
    step = last if step is None else step
    if not 0 < step <= last:
        raise ValueError(f"step must lie in [1, {last}], the last of the snapshots in {workdir}, got {step}")
    nearest = min(stored, key=lambda snapshot: abs(snapshot.step - step))
    weights, misfit = coefficients(stored, profile, step)
    if misfit > MISFIT:
        possible = [width for width in WIDTHS if coefficients(stored, PowerAverage(width), step)[1] <= MISFIT]
        cure = f"no width can be had at this step; use that of a snapshot, such as {nearest.step}"
        if possible:
            cure = f"at this step use {possible[0]:.3f} to {possible[-1]:.3f}"
        raise ValueError(
            f"the average of width {std} at step {step} cannot be made of the {len(stored)} snapshots in {workdir}"
            f" (misfit {100 * misfit:.0f} % of its profile); {cure}, or take snapshots more often"
        )
    total: dict[str, Tensor] = {}
    for weight, snapshot in zip(weights, stored, strict=True):
        if weight:
            for key, value in load_file(snapshot.path).items():
                if value.is_floating_point():
                    total[key] = total.get(key, torch.zeros_like(value, dtype=torch.float64)).add_(value, alpha=weight)
    like = load_file(nearest.path)
    return {key: total[key].to(torch.promote_types(value.dtype, torch.float32)) if key in total else value for key, value in like.items()}


def coefficients(stored: list[Snapshot], profile: PowerAverage, step: int) -> tuple[np.ndarray, float]:
    """The weights of (1) for a profile at a step, and the misfit.

    Args:
        stored: the snapshots.
        profile: the wanted average.
        step: number of updates done.
    """
    gamma, t = np.array([snapshot.profile.gamma for snapshot in stored]), np.array([float(snapshot.step) for snapshot in stored])
    itself = np.array([snapshot.profile == profile and snapshot.step == step for snapshot in stored], dtype=float)
    if itself.any():
        return itself, 0.0
    norms = np.sqrt(inner(gamma, t, gamma, t))
    norm = float(np.sqrt(inner(profile.gamma, step, profile.gamma, step)))
    # all profiles of norm 1, so that early ones, which are tall, and late ones count alike
    a = inner(gamma[:, None], t[:, None], gamma, t) / (norms[:, None] * norms)
    b = inner(gamma, t, profile.gamma, step) / (norms * norm)
    ones = 1 / norms
    free, along = np.linalg.solve(a, np.stack([b, ones], 1)).T
    w = free + along * (1 / norm - ones @ free) / (ones @ along)
    misfit = np.sqrt(max(0.0, float(1 - 2 * w @ b + w @ a @ w)))
    return w * norm / norms, float(misfit)


def inner(gamma: np.ndarray | float, t: np.ndarray | float, other: np.ndarray | float, s: np.ndarray | float) -> np.ndarray:
    """The inner product (2) of the profiles gamma at step t and other at step s, which broadcast."""
    m = np.minimum(t, s)
    scale = (gamma + 1) * (other + 1) / (gamma + other + 1)
    return np.asarray(scale * (m / t) ** gamma * (m / s) ** other / np.maximum(t, s))
