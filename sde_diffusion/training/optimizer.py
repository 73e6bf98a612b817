"""Adam and its learning rate over the run.

The rate at step = 0, 1, ... of a run is lr times a factor, with a linear warm-up over the first `warmup` steps:

    factor = min(1, (step + 1)/warmup) schedule(step)

    constant       1                                                                                                                (1)
    cosine         1/2 (1 + cos(pi step/steps))                 falls to 0 at the end                                               (2)
    inverse_sqrt   max(1, step/warmup)^(-1/2)                   falls for ever, whatever the length of the run                      (3)

References: Kingma and Ba 2015 for Adam; Loshchilov and Hutter 2017 for (2) without restarts and 2019 for AdamW; Vaswani et al. 2017 and
Karras et al. 2024 (arXiv 2312.02696), whose reference step is `warmup` here, for (3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "constant": lambda step, warmup, steps: 1.0,
    "cosine": lambda step, warmup, steps: (1 + math.cos(math.pi * min(1.0, step / steps))) / 2,
    "inverse_sqrt": lambda step, warmup, steps: max(1.0, step / max(1, warmup)) ** -0.5,
}
"""What a schedule makes of (step, warmup, steps)."""

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}

FUSED = ("cpu", "cuda", "mps", "xpu")
"""Devices on which torch updates all weights by one kernel."""


def make_optimizer(
    network: nn.Module, *, name: str, lr: float, betas: Sequence[float], eps: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Adam or AdamW over the weights of a network, by one kernel where its device has it.

        m <- betas[0] m + (1 - betas[0]) grad,   v <- betas[1] v + (1 - betas[1]) grad^2,   w <- w - lr m_hat/(sqrt(v_hat) + eps)

    "adam" adds weight_decay w to the gradient (Kingma and Ba 2015); "adamw" takes lr weight_decay w from the weights instead, and from
    matrices and convolutions only: norms and biases, of one dimension or none, are left alone (Loshchilov and Hutter 2019).

    Args:
        network: what is trained; parameters without gradient are left out.
        name: "adam" or "adamw".
        lr: the learning rate, positive.
        betas: two numbers in [0, 1).
        eps: not negative.
        weight_decay: not negative.

    Raises:
        ValueError: for another name, or a number out of range.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"no optimizer {name!r}; use one of {', '.join(OPTIMIZERS)}")
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive and finite, got {lr}; use 2e-4")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be two numbers in [0, 1), got {tuple(betas)}; use (0.9, 0.999)")
    for field, value, usual in (("eps", eps, "1e-8"), ("weight_decay", weight_decay, "0")):
        if not 0 <= value < math.inf:
            raise ValueError(f"{field} must be finite and not negative, got {value}; use {usual}")
    weights = [p for p in network.parameters() if p.requires_grad]
    if not weights:
        raise ValueError(f"{type(network).__name__} has no parameters that need a gradient; there is nothing to train")
    groups = [{"params": weights, "weight_decay": weight_decay}]
    if name == "adamw":
        groups = [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
        ]
    fused = all(p.device.type in FUSED and p.is_floating_point() for p in weights)
    options = {"fused": True} if fused else {"foreach": True}
    beta1, beta2 = betas
    return OPTIMIZERS[name]([group for group in groups if group["params"]], lr=lr, betas=(beta1, beta2), eps=eps, **options)


def learning_rate_factor(schedule: str, step: int, *, warmup: int, steps: int) -> float:
    """What the learning rate of an update is multiplied by: (1), (2) or (3), with warm-up.

    Args:
        schedule: "constant", "cosine" or "inverse_sqrt".
        step: number of updates done before, 0, 1, ...
        warmup: steps of the linear warm-up, and where (3) begins to fall; 0 for none.
        steps: length of the run, positive.

    Raises:
        ValueError: for another schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"no schedule {schedule!r}; use one of {', '.join(SCHEDULES)}")
    return min(1.0, (step + 1) / max(1, warmup)) * SCHEDULES[schedule](step, warmup, steps)
