"""Other libraries' log-likelihoods as functions (denoiser, x, probe) -> Estimate, for the table and the parity tests.

Each follows the probability flow of our denoiser with the given probe e for all times, as all of them do, log p(x) = log p_1(z) + int
e . grad(e . v), from the data's end of the process to the prior's. score_sde_pytorch is no package: what is here is written from its
description, one explicit Runge-Kutta step of SciPy for the whole flattened batch, at times and states that travel through numpy, with one
call of the model for the drift and another inside the divergence. k-diffusion and flow_matching run as they are installed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from unittest import mock

import torch
from _peers import double, k_diffusion
from torch import Tensor

import sde_diffusion as sd
from sde_diffusion.shapes import expand, sum_event


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What one run gave: nats (b,), evaluations of the flow, calls of the denoiser, and seconds of the processor."""

    nats: Tensor
    nfe: int
    calls: int
    seconds: float


Likelihood = Callable[[sd.Denoiser, Tensor, Tensor], Estimate]


def score_sde(*, rtol: float = 1e-5, atol: float = 1e-5, eps: float = 1e-5, method: str = "RK45") -> Likelihood:
    """The likelihood of score_sde_pytorch, from t = eps to 1, in the dtype of x between its numpy arrays of float64."""

    def run(denoiser: sd.Denoiser, x: Tensor, probe: Tensor) -> Estimate:
        import numpy as np
        from scipy.integrate import solve_ivp

        sde, n, calls = denoiser.sde, len(x), 0
        start = time.process_time()

        def flow(state: Tensor, t: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return expand(sde.f(t), state) * state - 0.5 * expand(sde.g(t), state) ** 2 * denoiser.score(state, t)

        def rates(t: float, y: np.ndarray) -> np.ndarray:
            state = torch.from_numpy(y[:-n].reshape(x.shape)).to(x.dtype)
            times = torch.full((n,), t, dtype=x.dtype)
            with torch.no_grad():
                drift = flow(state, times)
            state.requires_grad_()
            (pulled,) = torch.autograd.grad((flow(state, times) * probe).sum(), state)
            return np.concatenate([drift.reshape(-1).numpy(), sum_event(pulled * probe).numpy()])

        y = np.concatenate([x.reshape(-1).numpy(), np.zeros(n)])
        solution = solve_ivp(rates, (eps, 1.0), y, rtol=rtol, atol=atol, method=method)
        end = torch.from_numpy(solution.y[:, -1])
        nats = sde.prior_log_prob(end[:-n].reshape(x.shape).to(x.dtype)) + end[-n:].to(x.dtype)
        return Estimate(nats.double(), solution.nfev, calls, time.process_time() - start)

    return run


def k_diffusion_log_likelihood(*, tolerance: float = 1e-4) -> Likelihood:
    """k-diffusion's `log_likelihood` (torchdiffeq's dopri5), from sigma at t_min to t_max, for processes with alpha = 1."""

    def run(denoiser: sd.Denoiser, x: Tensor, probe: Tensor) -> Estimate:
        sde, calls = denoiser.sde, 0

        def model(x: Tensor, sigma: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return denoiser(x, sde.t_of_log_snr(-sigma.double().log()).clamp(0, sde.t_max))

        ends = [float(sde.sigma(t)) for t in (sde.t_min, sde.t_max)]
        start = time.process_time()
        with mock.patch.object(torch, "randint_like", return_value=(probe + 1) / 2):  # of which it makes 2 bits - 1
            nats, info = k_diffusion().log_likelihood(model, x, *ends, atol=tolerance, rtol=tolerance)
        return Estimate(nats.detach().double(), info["fevals"], calls, time.process_time() - start)

    return run


def flow_matching_likelihood(*, tolerance: float = 1e-5, closest: float = 1e-5) -> Likelihood:
    """flow_matching's `ODESolver.compute_likelihood` (torchdiffeq's dopri5) on a RectifiedFlow; its probes are signs.

    Args:
        tolerance: rtol and atol.
        closest: the least t at which our denoiser is asked, for its velocity has 0/0 at t = 0; the integral goes down to 0 all the same.
    """

    def run(denoiser: sd.Denoiser, x: Tensor, probe: Tensor) -> Estimate:
        from flow_matching.solver import ode_solver

        calls = 0

        def velocity(*, x: Tensor, t: Tensor) -> Tensor:  # of growing 1 - t
            nonlocal calls
            calls += 1
            noise = (1 - t).double().clamp(min=closest)
            return (denoiser(x, noise) - x) / noise.to(x)

        grid, prior = torch.tensor([1.0, 0.0], dtype=x.dtype), denoiser.sde.prior_log_prob
        options = {"step_size": None, "method": "dopri5", "atol": tolerance, "rtol": tolerance, "time_grid": grid}
        start = time.process_time()
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(torch, "randn_like", return_value=-probe))  # which it asks where it is negative
            if x.dtype == torch.float64:
                stack.enter_context(double(ode_solver))
            _, nats = ode_solver.ODESolver(velocity).compute_likelihood(x, prior, **options)
        return Estimate(nats.detach().double(), calls, calls, time.process_time() - start)

    return run
