"""Where a denoiser is wrong: its loss by noise level, on data that it was trained on and on data that it never saw.

[t_min, t_max] is divided into bins of equal width in lam = log(alpha/sigma); within a bin, lam is spread evenly over the samples.  The
noise and the levels of a bin are the same for both sets, so that they differ in their data only.  A network that remembers its training
data does so at high lam, where little noise is left: there the two curves part.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.losses import DenoisingScoreMatching
from sde_diffusion.noise import Stream

BINS = 12
LIMIT = 256  # samples of each set


@dataclass(frozen=True)
class LevelLosses:
    """Losses by noise level, noisiest first.

    Args:
        log_snr: centres of the bins, lam = log(alpha/sigma).
        train: mean loss of each bin on training data.
        held_out: on held-out data.
        train_error: standard errors of `train`.
        held_out_error: standard errors of `held_out`.
        n: samples of each set.
    """

    log_snr: tuple[float, ...]
    train: tuple[float, ...]
    held_out: tuple[float, ...]
    train_error: tuple[float, ...]
    held_out_error: tuple[float, ...]
    n: int


def level_losses(
    denoiser: Denoiser,
    loss: DenoisingScoreMatching,
    train: Tensor,
    held_out: Tensor,
    *,
    train_cond: Any = None,
    held_out_cond: Any = None,
    bins: int = BINS,
    seed: int = 0,
) -> LevelLosses:
    """The weighted loss by noise level on equally many samples of both sets, at most 256.

    Args:
        denoiser: on whose device it is computed.
        loss: whose weighting is used; its law of times is not.
        train: (k, *d).
        held_out: (m, *d).
        train_cond: labels (k,) of a conditional denoiser, or None.
        held_out_cond: labels (m,).
        bins: number of noise levels.
        seed: of the noise.
    """
    sde, n = denoiser.sde, min(len(train), len(held_out), LIMIT)
    least = sde.t_min if sde.length is None else 1 / sde.length
    ends = sde.log_snr(torch.tensor([sde.t_max, least], dtype=torch.float64))
    edges = torch.linspace(float(ends[0]), float(ends[1]), bins + 1, dtype=torch.float64)
    spread = (torch.arange(n, dtype=torch.float64) + 1 / 2) / n
    found: dict[str, list[Tensor]] = {"train": [], "held_out": []}
    with torch.no_grad():
        for low, high in itertools.pairwise(edges):
            t = sde.t_of_log_snr(low + (high - low) * spread).clamp(least, sde.t_max)
            for name, x, cond in (("train", train, train_cond), ("held_out", held_out, held_out_cond)):
                x0 = x[:n].to(denoiser.like.device)
                labels = None if cond is None else cond[:n].to(x0.device)
                noise = Stream(torch.Generator().manual_seed(seed))
                found[name].append(loss(denoiser, x0, t=t.to(x0.device), cond=labels, noise=noise).double().cpu())
    centres = ((edges[:-1] + edges[1:]) / 2).tolist()
    means = {name: tuple(torch.stack(losses).mean(1).tolist()) for name, losses in found.items()}
    errors = {f"{name}_error": tuple((torch.stack(losses).std(1) / n**0.5).tolist()) for name, losses in found.items()}
    return LevelLosses(log_snr=tuple(centres), **means, **errors, n=n)
