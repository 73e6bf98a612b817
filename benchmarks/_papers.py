"""DDPM, NCSN and SMLD as their papers have them: what ncsn_ddpm_equivalence.py holds against the package, and shares no code with it.

Ho et al. 2020 (arXiv 2006.11239), Song & Ermon 2019 (1907.05600), Song et al. 2021 (2011.13456). Scores are those of three blobs in the
plane, by autograd of the log-density.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import NamedTuple

import torch
from torch import Tensor

STEPS = 1000  # of DDPM
BETA_1, BETA_T = "0.0001", "0.02"  # of DDPM, exact as decimals
DIGITS = 50  # of the decimal arithmetic that DDPM's table is computed in
LEVELS = 200  # of SMLD

MEANS = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], dtype=torch.float64)
STDS = torch.tensor([0.1, 0.3, 0.2], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


class DDPMTable(NamedTuple):
    """DDPM's schedule and posterior for t = 1..1000, (1000,) each, from decimals."""

    beta: Tensor
    alpha_bar: Tensor
    one_minus_alpha_bar: Tensor
    weight_x0: Tensor
    weight_xt: Tensor
    beta_tilde: Tensor


def ddpm_table() -> DDPMTable:
    """Ho et al. 2020: alpha_bar_t = prod_{s <= t} (1 - beta_s), and q(x_{t-1} | x_t, x_0) has mean and variance

    mu = sqrt(alpha_bar_{t-1}) beta_t/(1 - alpha_bar_t) x_0 + sqrt(1 - beta_t) (1 - alpha_bar_{t-1})/(1 - alpha_bar_t) x_t,
    beta_tilde = (1 - alpha_bar_{t-1})/(1 - alpha_bar_t) beta_t.
    """
    rows = []
    with localcontext() as context:
        context.prec = DIGITS
        first, last, bar = Decimal(BETA_1), Decimal(BETA_T), Decimal(1)
        for i in range(STEPS):
            beta = first + (last - first) * i / (STEPS - 1)
            before, bar = bar, bar * (1 - beta)
            share = (1 - before) / (1 - bar)
            row = (beta, bar, 1 - bar, before.sqrt() * beta / (1 - bar), (1 - beta).sqrt() * share, beta * share)
            rows.append([float(a) for a in row])
    return DDPMTable(*torch.tensor(rows, dtype=torch.float64).T)


def mixture_score(x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """nabla log sum_k w_k N(x; alpha m_k, (alpha^2 s_k^2 + sigma^2) I), by autograd."""
    x = x.detach().requires_grad_()
    v = alpha**2 * STDS**2 + sigma**2
    square = (x[:, None] - alpha * MEANS).square().sum(-1)
    log_p = torch.logsumexp(WEIGHTS.log() - square / (2 * v) - x.shape[1] / 2 * torch.log(2 * math.pi * v), dim=1)
    return torch.autograd.grad(log_p.sum(), x)[0]


def ho_algorithm_2(x: Tensor, draws: list[Tensor], variance: str) -> Tensor:
    """x_{t-1} = (x_t - beta_t/sqrt(1 - alpha_bar_t) eps(x_t, t))/sqrt(alpha_t) + sigma_t z, z = 0 at t = 1 (Ho et al. 2020).

    sigma_t^2 is beta_t ("forward") or beta_tilde_t ("posterior").
    """
    beta = torch.linspace(float(BETA_1), float(BETA_T), STEPS, dtype=torch.float64)
    alpha, alpha_bar = 1 - beta, torch.cumprod(1 - beta, 0)
    for t in range(STEPS, 0, -1):
        i = t - 1
        one_minus_bar = 1 - alpha_bar[i]
        eps = -one_minus_bar.sqrt() * mixture_score(x, alpha_bar[i].sqrt(), one_minus_bar.sqrt())
        x = (x - beta[i] / one_minus_bar.sqrt() * eps) / alpha[i].sqrt()
        if t > 1:
            beta_tilde = (1 - alpha_bar[i - 1]) / one_minus_bar * beta[i]
            x = x + (beta[i] if variance == "forward" else beta_tilde).sqrt() * draws[STEPS - t]
    return x


def three_formulas(beta: float) -> dict[str, Tensor]:
    """(1 + beta/2) x + beta score, (2 - sqrt(1 - beta)) x + beta score and (x + beta score)/sqrt(1 - beta), each + sqrt(beta) z."""
    a, z = math.sqrt(1 - beta), math.sqrt(beta)
    formulas = {"EulerMaruyama": (1 + beta / 2, beta, z), "ReverseDiffusion": (2 - a, beta, z), "Ancestral": (1 / a, beta / a, z)}
    return {name: torch.tensor(weights, dtype=torch.float64) for name, weights in formulas.items()}


def song_sigmas(n: int, sigma_min: float = 0.01, sigma_max: float = 50.0) -> list[float]:
    """sigma_i = sigma_min (sigma_max/sigma_min)^((i-1)/(n-1)), i = 1..n (Song et al. 2021)."""
    return [sigma_min * (sigma_max / sigma_min) ** (i / (n - 1)) for i in range(n)]


def song_smld(x: Tensor, draws: list[Tensor], *, ancestral: bool) -> Tensor:
    """x_{i-1} = x_i + (sigma_i^2 - sigma_{i-1}^2) score(x_i, sigma_i) + c z, sigma_0 = 0 (Song et al. 2021).

    c^2 is sigma_{i-1}^2 (sigma_i^2 - sigma_{i-1}^2)/sigma_i^2 (ancestral) or sigma_i^2 - sigma_{i-1}^2 (reverse diffusion).
    """
    sigmas, source = [0.0, *song_sigmas(LEVELS)], iter(draws)
    for i in range(LEVELS, 0, -1):
        step = sigmas[i] ** 2 - sigmas[i - 1] ** 2
        c2 = sigmas[i - 1] ** 2 * step / sigmas[i] ** 2 if ancestral else step
        x = x + step * mixture_score(x, 1.0, sigmas[i]) + (math.sqrt(c2) * next(source) if c2 else 0)
    return x


def annealed_langevin(x: Tensor, draws: list[Tensor], epsilon: float, steps: int, levels: int) -> Tensor:
    """x <- x + a_i/2 score(x, sigma_i) + sqrt(a_i) z with a_i = 2 epsilon sigma_i^2/sigma_L^2 (Song & Ermon 2019, algorithm 1).

    epsilon is that of their code, half of the paper's. Ends with x + sigma_L^2 score(x, sigma_L).
    """
    sigmas, source = song_sigmas(levels)[::-1], iter(draws)
    for sigma in sigmas:
        a = 2 * epsilon * sigma**2 / sigmas[-1] ** 2
        for _ in range(steps):
            x = x + a / 2 * mixture_score(x, 1.0, sigma) + math.sqrt(a) * next(source)
    return x + sigmas[-1] ** 2 * mixture_score(x, 1.0, sigmas[-1])


Prediction = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x, alpha, sigma) -> like x


def ho_l_simple(eps_theta: Prediction, x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """|eps - eps_theta(sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps)|^2 (Ho et al. 2020, eq 14), (b,)."""
    a, s = alpha_bar.sqrt()[:, None], (1 - alpha_bar).sqrt()[:, None]
    return (eps - eps_theta(a * x0 + s * eps, a, s)).square().sum(1)


def song_ermon_loss(score_theta: Prediction, x0: Tensor, eps: Tensor, sigma: Tensor) -> Tensor:
    """lambda(sigma)/2 |score_theta(x, sigma) + (x - x_0)/sigma^2|^2, x = x_0 + sigma eps, lambda = sigma^2 (Song & Ermon 2019), (b,)."""
    sigma = sigma[:, None]
    x = x0 + sigma * eps
    return sigma[:, 0] ** 2 / 2 * (score_theta(x, torch.ones_like(sigma), sigma) + (x - x0) / sigma**2).square().sum(1)
