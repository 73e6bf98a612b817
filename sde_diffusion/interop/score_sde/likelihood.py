"""Log-likelihood by the probability flow, as score_sde_pytorch has it (its `likelihood.py`).

    log p_eps(x) = log p_1(z) + int_eps^1 div v dt,    dx/dt = v,    div v ~ e . grad(e . v)     (1)

with z the state at t = 1 and one probe e for all times (Hutchinson 1989; Song et al. 2021, appendix D.2). The result is in bits per
dimension of 8-bit data u = inverse_scaler(x) in [0, 1],

    bpd = -log2 p(x)/d + 8 + log2 du/dx                                                          (2)

Unlike the reference: its "7 - inverse_scaler(-1)" is (2) for x in [-1, 1] and [0, 1] only, ours for every affine inverse_scaler; one call
of the model gives v and the divergence, where it makes two. The probe comes from torch's global generator unless `generator=` is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.interop.score_sde.base import SDE, noise_of
from sde_diffusion.interop.score_sde.flow import integrate
from sde_diffusion.interop.score_sde.models import Model, get_score_fn
from sde_diffusion.shapes import sum_event

BITS = 8  # of the data
PROBES = ("Rademacher", "Gaussian")


def get_likelihood_fn(
    sde: SDE,
    inverse_scaler: Callable[[Any], Any],
    hutchinson_type: str = "Rademacher",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str = "RK45",
    eps: float = 1e-5,
    *,
    generator: torch.Generator | None = None,
) -> Callable[[Model, Tensor], tuple[Tensor, Tensor, int]]:
    """A function that estimates log-likelihoods (1) under a model trained at all times.

    Args:
        sde: the process.
        inverse_scaler: an increasing affine function of the data, into [0, 1].
        hutchinson_type: law of the probe, "Rademacher" or "Gaussian".
        rtol: relative tolerance, > 0.
        atol: absolute tolerance, > 0.
        method: one that our `ScipyODE` takes, such as "RK45".
        eps: the first time, in (0, 1).
        generator: source of the probe; None: torch's global generator.

    Returns:
        A function of the model and data (b, *d) that returns bits per dimension (b,), the latent codes (b, *d) and the number of calls.

    Raises:
        NotImplementedError: for another hutchinson_type.
        ValueError: for an inverse_scaler that does not increase.
    """
    if hutchinson_type not in PROBES:
        raise NotImplementedError(f"hutchinson_type must be 'Rademacher' or 'Gaussian', got {hutchinson_type!r}")
    slope = float(inverse_scaler(1.0)) - float(inverse_scaler(0.0))
    if not slope > 0:
        raise ValueError(f"inverse_scaler must increase, got {inverse_scaler(0.0)} at 0 and {inverse_scaler(1.0)} at 1; is it the scaler?")

    def likelihood_fn(model: Model, data: Tensor) -> tuple[Tensor, Tensor, int]:
        flow = sde.reverse(get_score_fn(sde, model, train=False, continuous=True), probability_flow=True)
        probe = _probe(data, hutchinson_type, generator)
        calls = 0

        def rates(state: Tensor, t: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            with torch.enable_grad():
                x = state[:, :-1].reshape(data.shape).detach().requires_grad_()
                v = flow.sde(x, t)[0]
                (pulled,) = torch.autograd.grad((v * probe).sum(), x)
            return torch.cat([v.detach().flatten(1), sum_event(pulled * probe)[:, None]], 1)

        start = torch.cat([data.detach().flatten(1), data.new_zeros(len(data), 1)], 1)
        end = integrate(rates, start, (eps, sde.T), rtol=rtol, atol=atol, method=method)
        z = end[:, :-1].reshape(data.shape)
        nats = sde.prior_logp(z) + end[:, -1]
        return -nats / (math.log(2) * data[0].numel()) + BITS + math.log2(slope), z, calls

    return likelihood_fn


def _probe(data: Tensor, kind: str, generator: torch.Generator | None) -> Tensor:
    if kind == "Gaussian":
        return noise_of(generator)(data)
    device = data.device if generator is None else generator.device
    return torch.randint(0, 2, data.shape, generator=generator, device=device).to(data) * 2 - 1
