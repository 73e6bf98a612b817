"""Other libraries' samplers as functions (denoiser, x, grid, noise) -> samples, for the audit and the parity tests.

Each is run as it is installed, on our denoiser, at our times and with our noise. Where a library computes in float32 whatever it is given,
its module sees float64 under that name (`double`), so that what is left between two equal samplers is rounding.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import itertools
import math
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
import torch
from torch import Tensor

import sde_diffusion as sd

Run = Callable[[sd.Denoiser, Tensor, Tensor, sd.Noise], Tensor]


def version(library: str) -> str | None:
    """The installed version, or None."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


class _Double:
    """A module in which float32 is float64."""

    float32 = torch.float64

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@contextlib.contextmanager
def double(module: types.ModuleType) -> Iterator[None]:
    """Makes a library's module compute in float64 where it says float32 or nothing."""
    replaced = {"torch": _Double(torch), "np": _Double(numpy)}
    replaced["np"].float32 = numpy.float64  # type: ignore[misc]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.multiple(module, **{name: fake for name, fake in replaced.items() if hasattr(module, name)}):
            yield
    finally:
        torch.set_default_dtype(before)


# k-diffusion: variance-exploding, in sigma.


def k_diffusion() -> types.ModuleType:
    """k_diffusion.sampling alone: the package itself imports image metrics and their networks.

    Raises:
        ImportError: if it, torchsde or torchdiffeq is not installed.
    """
    name = "_k_diffusion_alone"
    if f"{name}.sampling" not in sys.modules:
        found = importlib.util.find_spec("k_diffusion")
        if found is None or found.origin is None:
            raise ImportError("k-diffusion is not installed")
        package, utils = types.ModuleType(name), types.ModuleType(f"{name}.utils")
        package.__path__ = [str(Path(found.origin).parent)]
        utils.append_dims = lambda x, ndim: x.reshape(x.shape + (1,) * (ndim - x.ndim))  # type: ignore[attr-defined]
        package.utils = utils  # type: ignore[attr-defined]
        sys.modules |= {name: package, f"{name}.utils": utils}
    return importlib.import_module(f"{name}.sampling")


class BrownianInSigma:
    """k-diffusion's noise sampler, (sigma, next) -> (W_next - W_sigma)/sqrt|next - sigma|, of one path that falls in sigma."""

    def __init__(self, noise: sd.Noise, x: Tensor) -> None:
        self.noise, self.x = noise, x
        self.path: dict[float, Tensor] = {}

    def __call__(self, sigma: Tensor, after: Tensor) -> Tensor:
        if not self.path:
            self.path[float(sigma)] = torch.zeros_like(self.x)
        for s in (sigma, after):
            if float(s) not in self.path:
                last = min(self.path)
                self.path[float(s)] = self.path[last] + (last - s).sqrt() * self.noise(self.x)
        return (self.path[float(after)] - self.path[float(sigma)]) / (sigma - after).sqrt()


def k_sampler(name: str, *, brownian: bool = False, **options: Any) -> Run:
    """k-diffusion's `sample_<name>` on a process with alpha = 1; `brownian`: noise as its own Brownian tree makes it, else independent."""

    def run(denoiser: sd.Denoiser, x: Tensor, grid: Tensor, noise: sd.Noise) -> Tensor:
        sde, sampler, more = denoiser.sde, getattr(k_diffusion(), f"sample_{name}"), dict(options)

        def model(x: Tensor, sigma: Tensor) -> Tensor:
            return denoiser(x, sde.t_of_log_snr(-sigma[0].log()))

        if "noise_sampler" in inspect.signature(sampler).parameters:
            more.setdefault("noise_sampler", BrownianInSigma(noise, x) if brownian else lambda sigma, after: noise(x))
        low, high = options.get("s_tmin", 0.0), options.get("s_tmax", math.inf)
        churned = iter((low <= sigma <= high) and options.get("s_churn", 0.0) > 0 for sigma in sde.sigma(grid).tolist())

        def randn_like(x: Tensor) -> Tensor:  # drawn in every step, used or not
            return noise(x) if next(churned) else torch.zeros_like(x)

        with mock.patch.object(torch, "randn_like", randn_like):
            return sampler(model, x, sde.sigma(grid).to(x), disable=True, **more)

    return run


def k_adaptive(**options: Any) -> Run:
    """k-diffusion's `sample_dpm_adaptive`, between the ends of the grid."""

    def run(denoiser: sd.Denoiser, x: Tensor, grid: Tensor, noise: sd.Noise) -> Tensor:
        sde = denoiser.sde
        high, low = sde.sigma(grid[[0, -1]]).tolist()

        def model(x: Tensor, sigma: Tensor) -> Tensor:
            return denoiser(x, sde.t_of_log_snr(-sigma[0].log()))

        sampling = k_diffusion()
        with double(sampling):
            return sampling.sample_dpm_adaptive(model, x, low, high, disable=True, **options)

    return run


# diffusers: variance-preserving, or in x/alpha; in nodes of a chain, or in sigma/alpha.

NODES = ("DDPM", "DDIM", "PNDM")  # know the nodes of a chain only
RESCALED = ("EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "LMSDiscrete")
EDM = ("EDMEuler", "EDMDPMSolverMultistep")
TWO_STAGES = ("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete")  # with tables that set_timesteps interleaves


def drawing(module: types.ModuleType, noise: sd.Noise, x: Tensor) -> Any:
    """Makes a scheduler's module draw our noise."""

    def randn_tensor(*_: Any, **__: Any) -> Tensor:
        return noise(x)

    return mock.patch.object(module, "randn_tensor", randn_tensor, create=True)


def diffusers_scheduler(name: str, *, step: dict[str, Any] | None = None, **config: Any) -> Run:
    """diffusers' `<name>Scheduler(**config)`, in float64, with our sigma/alpha in place of its own table; `step`: options of each step.

    Those in NODES run on a DDPM chain, on their own nodes, which are the grid's if it is "leading" (for PNDM down to the first node); those
    in TWO_STAGES go on to sigma = 0 by themselves, a step that is left out unless the grid has it; those in EDM have alpha = 1. From a
    state in float32 they compute as they are installed.
    """

    def run(denoiser: sd.Denoiser, x: Tensor, grid: Tensor, noise: sd.Noise) -> Tensor:
        import diffusers

        kind, sde = getattr(diffusers, f"{name}Scheduler"), denoiser.sde
        module, n, options = sys.modules[kind.__module__], len(grid) - 1, dict(config)
        rho = sde.sigma(grid) / sde.alpha(grid)
        rescaled = name in RESCALED + EDM
        if name in TWO_STAGES:
            options["use_karras_sigmas"] = True
        if name in NODES and name != "PNDM":
            options.setdefault("clip_sample", False)
        with double(module) if x.dtype == torch.float64 else contextlib.nullcontext(), drawing(module, noise, x):
            scheduler = kind(**options)
            if name == "DDPM":
                scheduler.set_timesteps(timesteps=[round(t) - 1 for t in (grid[:-1] * sde.length).tolist()])
            elif name in NODES:
                scheduler.set_timesteps(n + 1 if name == "PNDM" else n)  # PNDM's last step ends where it begins, at the first node
            else:
                levels = rho[rho > 0] if name in TWO_STAGES else rho[:-1]
                scheduler._convert_to_karras = lambda **_: levels.numpy()
                scheduler.set_timesteps(len(levels))
                scheduler.set_begin_index(0)
                if name in TWO_STAGES:
                    scheduler.timesteps = scheduler.timesteps[: len(scheduler.timesteps) + n - len(levels)]
                else:
                    scheduler.sigmas = rho.to(x)
            scheduler.is_scale_input_called = True
            state = x / sde.alpha(grid[0]) if rescaled else x
            for timestep in scheduler.timesteps:
                t = (timestep.double() + 1) / sde.length if name in NODES else sde.t_of_log_snr(-_level(scheduler, name).log())
                alpha, sigma = sde.alpha(t), sde.sigma(t)
                x0_hat = denoiser(state * alpha if rescaled else state, t)
                level = sigma / alpha if rescaled else sigma
                output = (state - (1 if rescaled else alpha) * x0_hat) / level
                if name in EDM:  # what a network of Karras et al.'s predicts
                    skip = 0.25 / (level**2 + 0.25)
                    output = (x0_hat - skip * state) / (level * skip.sqrt())
                time = timestep if name in NODES else float(timestep)
                state = scheduler.step(output, time, state, return_dict=False, **(step or {}))[0]
            return state * sde.alpha(grid[-1]) if rescaled else state

    return run


def _level(scheduler: Any, name: str) -> Tensor:
    """sigma/alpha at which the next call is made."""
    i = scheduler.step_index or 0
    if name.startswith("KDPM2") and not scheduler.state_in_first_order:
        return scheduler.sigmas_interpol[i - (name == "KDPM2AncestralDiscrete")]
    return scheduler.sigmas[i]


def diffusers_score_sde_ve(*, snr: float = 0.15) -> Run:
    """diffusers' ScoreSdeVeScheduler as its pipeline runs it, on a ladder of geometric levels from t = 1 to 0; the last noise is kept."""

    def run(denoiser: sd.Denoiser, x: Tensor, grid: Tensor, noise: sd.Noise) -> Tensor:
        import diffusers

        kind, sde, n = diffusers.ScoreSdeVeScheduler, denoiser.sde, len(grid) - 1
        module = sys.modules[kind.__module__]
        low, high = sde.sigma(grid[-2]).item(), sde.sigma(grid[0]).item()
        with double(module), drawing(module, noise, x):
            scheduler = kind(num_train_timesteps=n, snr=snr, sigma_min=low, sigma_max=high)
            for timestep, t in zip(scheduler.timesteps, grid[:-1], strict=True):
                x = scheduler.step_correct(denoiser.score(x, t), x, return_dict=False)[0]
                x = scheduler.step_pred(denoiser.score(x, t), timestep, x, return_dict=False)[0]
        return x

    return run


# azula: any process, by alpha and sigma of its times.


def azula_sampler(name: str, **options: Any) -> Run:
    """azula's `<name>Sampler(**options)` at our times."""

    def run(denoiser: sd.Denoiser, x: Tensor, grid: Tensor, noise: sd.Noise) -> Tensor:
        import azula.sample
        from azula.denoise import Denoiser, DiracPosterior

        sde, kind = denoiser.sde, getattr(azula.sample, f"{name}Sampler")

        class Ours(Denoiser):
            def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
                return sde.alpha(t), sde.sigma(t)

            def forward(self, x_t: Tensor, t: Tensor) -> DiracPosterior:
                return DiracPosterior(mean=denoiser(x_t, t))

        sampler = type(name, (kind,), {"timesteps": grid})(Ours(), silent=True, **options)
        with mock.patch.object(torch, "randn_like", noise):
            return sampler(x)

    return run


# Integrators of ODEs and SDEs, on the reverse process in t.


def torchdiffeq_odeint(method: str, **options: Any) -> Run:
    """torchdiffeq's `odeint`: of fixed step on our grid, else between its ends."""

    def run(denoiser: sd.Denoiser, x: Tensor, grid: Tensor, noise: sd.Noise) -> Tensor:
        from torchdiffeq import odeint

        flow = denoiser.sde.reverse(denoiser, eta=0)
        return odeint(flow, x, grid if method in ("euler", "midpoint", "heun3", "rk4") else grid[[0, -1]], method=method, **options)[-1]

    return run


def torchode_solve(method: str = "dopri5", *, rtol: float = 1e-5, atol: float = 1e-5) -> Run:
    """torchode, with steps of its own per sample."""

    def run(denoiser: sd.Denoiser, x: Tensor, grid: Tensor, noise: sd.Noise) -> Tensor:
        import torchode

        flow = denoiser.sde.reverse(denoiser, eta=0)
        term = torchode.ODETerm(lambda t, y: flow.drift(y, t))
        kind = {"dopri5": torchode.Dopri5, "tsit5": torchode.Tsit5, "heun": torchode.Heun}[method]
        solver = torchode.AutoDiffAdjoint(kind(term=term), torchode.IntegralController(rtol, atol, term=term))
        times = grid[[0, -1]].expand(len(x), 2)
        return solver.solve(torchode.InitialValueProblem(y0=x, t_eval=times)).ys[:, -1]

    return run


class Increments:
    """A Brownian motion for torchsde whose increments are our noise, asked for once each and in order of time."""

    levy_area_approximation = "none"

    def __init__(self, noise: sd.Noise, x: Tensor) -> None:
        self.noise, self.x, self.shape, self.dtype, self.device = noise, x, x.shape, x.dtype, x.device

    def __call__(self, ta: Tensor, tb: Tensor, return_U: bool = False, return_A: bool = False) -> Tensor:
        return (tb - ta).sqrt() * self.noise(self.x)


def torchsde_sdeint(method: str, *, eta: float = 1.0) -> Run:
    """torchsde's `sdeint` at our times, tau = 1 - t."""

    def run(denoiser: sd.Denoiser, x: Tensor, grid: Tensor, noise: sd.Noise) -> Tensor:
        import torchsde

        reverse = denoiser.sde.reverse(denoiser, eta)
        reverse.sde_type = "ito" if method in ("euler", "milstein", "srk") else "stratonovich"  # the same for additive noise
        bm = Increments(noise, x)
        for t, s in itertools.pairwise(grid):
            x = torchsde.sdeint(reverse, x, torch.stack([1 - t, 1 - s]), bm=bm, method=method, dt=float(t - s) * (1 + 1e-9))[-1]
        return x

    return run
