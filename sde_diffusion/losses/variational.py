"""The variational bound of a chain, term by term, in nats.

A chain with nodes s < t = s + 1/n, read backwards, is a model of the data: x_1 ~ N(0, p^2 I), then p(x_s | x_t) = N(m(x_t, x0_hat), c^2 I),
where m(x_t, x_0) and c_0^2 are mean and variance of the bridge q(x_s | x_t, x_0), and at last a decoder p(x_0 | x) from the first node
with noise. Jensen's inequality bounds what it says of a point (Sohl-Dickstein et al. 2015; Ho et al. 2020, arXiv 2006.11239, eq 5):

    -log p(x_0) <= KL(q(x_1 | x_0) || N(0, p^2 I)) + sum_t E KL(q(x_s | x_t, x_0) || p(x_s | x_t)) - E log p(x_0 | x_first)       (1)

The two means differ by w_0 (x_0 - x0_hat), and with lam = log(alpha/sigma) and rho = log(c^2/c_0^2) a step's divergence is

    KL = 1/2 sum (expm1(-rho) + rho + kappa exp(-rho) (x_0 - x0_hat)^2),    kappa = w_0^2/c_0^2 = exp(2 lam_s) - exp(2 lam_t)      (2)

    variance     rho
    posterior    0
    forward      2 log(sigma_t/sigma_s)              (c^2 = Q, for c_0^2 = Q sigma_s^2/sigma_t^2)
    learned      v times that, of each element       (Nichol & Dhariwal 2021, arXiv 2102.09672)
    a function   log(c^2(sde, t, s)/c_0^2)           (such as Bao et al.'s, solvers/variance.py)

Kingma et al. 2021 (2107.00630) for kappa. No two large numbers are subtracted in (2), however close s and t are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.losses.decoders import Decoder, DiscretizedDecoder
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.shapes import expand, sum_event

Variance = str | Callable[[AffineSDE, Tensor, Tensor], Tensor]
"""What c^2 is: "posterior", "forward", "learned" or a function (sde, t, s) -> c^2, of the shape of t."""

VARIANCES = ("posterior", "forward", "learned")
_ON_NODE = 1e-2  # of a step, how far a time may lie from a node: float32 rounding of t = 1 in 4000 steps is 2e-4


def check_chain(sde: AffineSDE, what: str) -> int:
    """Returns the number of steps of a chain, or raises ValueError naming what needs one."""
    if sde.length is None:
        raise ValueError(f"{what} is a sum over the steps of a chain, and {sde} is not one; use sde.discretize(n)")
    return sde.length


def check_variance(variance: Variance) -> None:
    """Raises ValueError unless the variance is one of the names or a function."""
    if not callable(variance) and variance not in VARIANCES:
        raise ValueError(f"variance must be 'posterior', 'forward', 'learned' or a function (sde, t, s) -> c^2, got {variance!r}")


def first_node(sde: AffineSDE) -> int:
    """The number of a chain's first node with noise, from which the data are decoded: 1, or 0 if there is noise there already."""
    return 1 if float(sde.sigma(0.0)) == 0 else 0


def on_nodes(sde: AffineSDE, t: Tensor) -> Tensor:
    """The nodes 1/n, ..., 1 that times t mean, float64.

    Raises:
        ValueError: for a time between two nodes.
    """
    n = check_chain(sde, "a variational bound")
    place = t.double() * n
    i = place.round()
    wrong = ~((i >= 1) & (i <= n) & ((place - i).abs() <= _ON_NODE))
    if wrong.any():
        raise ValueError(f"t={t[wrong].flatten()[0].item():g} is no node 1/{n}, ..., 1 of the chain; draw it by ChainTimes()")
    return i / n


def prior_divergence(sde: AffineSDE, x0: Tensor) -> Tensor:
    """KL(q(x_1 | x_0) || N(0, p^2 I)), the first term of (1), for data x0 (b, *d): float64 (b,)."""
    alpha, ratio = sde.alpha(sde.t_max), (sde.sigma(sde.t_max) / sde.prior_std) ** 2
    return 0.5 * sum_event(ratio - 1 - ratio.log() + (alpha * x0.double() / sde.prior_std) ** 2)


def belief(denoiser: Denoiser, x: Tensor, t: Tensor, variance: Variance, cond: Any = None) -> tuple[Tensor, Tensor | None]:
    """x0_hat (b, *d), and v where the variance is learned, by one network call.

    Raises:
        ValueError: if the variance is "learned" and the denoiser has learned none.
    """
    return denoiser.with_variance(x, t, cond) if variance == "learned" else (denoiser(x, t, cond), None)


def step_divergence(
    sde: AffineSDE, x0: Tensor, x0_hat: Tensor, t: Tensor, s: Tensor, *, variance: Variance = "posterior", v: Tensor | None = None
) -> Tensor:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) by (2), between any two times with noise.

    Args:
        sde: the process, any affine one.
        x0: data (b, *d).
        x0_hat: the belief at x_t, (b, *d).
        t: times () or (b,).
        s: earlier times with noise, of the shape of t.
        variance: what c^2 is.
        v: where it is "learned", (b, *d).

    Returns:
        Nats, float64 (b,).
    """
    error = (x0 - x0_hat).double() ** 2
    kappa, rho = step_coefficients(sde, t, s, variance=variance, v=v, like=error)
    return 0.5 * sum_event(torch.expm1(-rho) + rho + kappa * torch.exp(-rho) * error)


def reconstruction(
    sde: AffineSDE,
    x0: Tensor,
    x: Tensor,
    x0_hat: Tensor,
    t: Tensor,
    after: Tensor | None = None,
    *,
    decoder: Decoder,
    variance: Variance = "posterior",
    v: Tensor | None = None,
) -> Tensor:
    """-log p(x_0 | x), the last term of (1).

    Args:
        sde: the process, any affine one.
        x0: data (b, *d).
        x: states (b, *d) at t.
        x0_hat: the belief at x, (b, *d).
        t: the first times with noise, () or (b,).
        after: the next ones, if there is no noise at the time before t: the decoder is a step of the chain then, and its variance goes
            by `variance` and the decoder. Else it is (sigma/alpha)^2.
        decoder: the law around x0_hat, or around x.
        variance: what c^2 is; a function is asked for that of the step to time 0.
        v: where it is "learned", (b, *d).

    Returns:
        Nats, float64 (b,).
    """
    t, x0, x = t.double(), x0.double(), x.double()
    log_variance = expand(-2 * sde.log_snr(t), x0)
    if decoder.around_state:
        return decoder.nats(x0, x / expand(sde.alpha(t), x), log_variance)
    if after is not None:
        zero, second = torch.zeros_like(t), expand(sde.posterior(t, after.double()).variance.log(), x0)
        if variance == "learned":
            assert v is not None
            log_variance = second + (expand(sde.transition(zero, t).variance.log(), x0) - second) * v.double()
        elif callable(variance):
            log_variance = expand(variance(sde, t, zero).log(), x0)
        elif isinstance(decoder, DiscretizedDecoder):
            log_variance = second
    return decoder.nats(x0, x0_hat.double(), log_variance)


def step_coefficients(sde: AffineSDE, t: Tensor, s: Tensor, *, variance: Variance, v: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """kappa and rho of (2) for steps from t to s, () or (b,), such that they multiply data `like` (b, *d); v (b, *d) if it is "learned"."""
    t, s = t.double(), s.double()
    lam_t, lam_s = sde.log_snr(t), sde.log_snr(s)
    kappa = expand(-torch.expm1(2 * (lam_t - lam_s)) * torch.exp(2 * lam_s), like)
    if callable(variance):
        return kappa, expand((variance(sde, t, s) / sde.posterior(s, t).variance).log(), like)
    if variance == "posterior":
        return kappa, torch.zeros_like(kappa)
    full = expand(2 * (sde.sigma(t) / sde.sigma(s)).log(), like)
    if variance == "forward":
        return kappa, full
    assert v is not None
    return kappa, full * v.to(like)
