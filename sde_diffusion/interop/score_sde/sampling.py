"""The samplers of score_sde_pytorch (its `sampling.py`): predictor-corrector, and the probability-flow ODE by SciPy.

The predictor-corrector sampler corrects and predicts at each of the times 1 = t_0 > ... > t_{N-1} = eps. With the predictors and processes
of this package it runs a table of our solvers in our loop (`tables.py`), with classes of your own it calls their `update_fn`.

Unlike the reference: Euler-Maruyama, which reverse diffusion is on sub-VP, steps from each time to the next (there every step is 1/N
long, and the last one leads beyond t = 0: with N = 20 and eps = 1e-3 it is 50 times too long, and diverges); noise that a table multiplies
by 0 is not drawn; and the number of calls returned is that of those made (there N (n_steps + 1), without a corrector too). Random numbers
come from torch's global generator, as a script for the reference expects, unless a sampler is given `generator=`; classes of your own
follow it if they draw with `self.noise(x)`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.interop.score_sde.base import SDE, ScoreFn, noise_of
from sde_diffusion.interop.score_sde.flow import integrate
from sde_diffusion.interop.score_sde.models import Model, get_score_fn
from sde_diffusion.interop.score_sde.sdes import AffineScoreSDE
from sde_diffusion.interop.score_sde.tables import table_of
from sde_diffusion.interop.score_sde.updates import (
    AncestralSamplingPredictor,
    AnnealedLangevinDynamics,
    Corrector,
    EulerMaruyamaPredictor,
    LangevinCorrector,
    NoneCorrector,
    NonePredictor,
    Predictor,
    ReverseDiffusionPredictor,
    Update,
    get_corrector,
    get_predictor,
    register_corrector,
    register_predictor,
)

__all__ = [
    "AncestralSamplingPredictor",
    "AnnealedLangevinDynamics",
    "Corrector",
    "EulerMaruyamaPredictor",
    "LangevinCorrector",
    "NoneCorrector",
    "NonePredictor",
    "Predictor",
    "ReverseDiffusionPredictor",
    "get_corrector",
    "get_ode_sampler",
    "get_pc_sampler",
    "get_predictor",
    "get_sampling_fn",
    "register_corrector",
    "register_predictor",
    "shared_corrector_update_fn",
    "shared_predictor_update_fn",
]

Scaler = Callable[[Any], Any]


@dataclasses.dataclass
class _Counted:
    """A score function that counts its calls."""

    score_fn: ScoreFn
    calls: int = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return self.score_fn(x, t)


def get_pc_sampler(
    sde: SDE,
    shape: Sequence[int],
    predictor: type[Predictor] | None,
    corrector: type[Corrector] | None,
    inverse_scaler: Scaler,
    snr: float,
    n_steps: int = 1,
    probability_flow: bool = False,
    continuous: bool = False,
    denoise: bool = True,
    eps: float = 1e-3,
    device: str | torch.device = "cuda",
    *,
    generator: torch.Generator | None = None,
) -> Callable[[Model], tuple[Any, int]]:
    """The predictor-corrector sampler (Song et al. 2021, algorithm 1, the corrector first).

    Args:
        sde: the process.
        shape: of the samples, (b, *d).
        predictor: a class such as ReverseDiffusionPredictor; None: only correct.
        corrector: a class such as LangevinCorrector; None: only predict.
        inverse_scaler: what is done to the samples in the end, such as `lambda x: (x + 1) / 2`.
        snr: the corrector's, > 0.
        n_steps: corrector's moves per time.
        probability_flow: whether the predictor follows the flow.
        continuous: whether the model was trained at all times.
        denoise: whether to leave out the last step's noise.
        eps: the last time, in (0, 1).
        device: where to sample; the model must be there.
        generator: source of all random numbers that classes of this package draw; None: torch's global generator.

    Returns:
        A function of the model that returns samples and the number of calls of the model.

    Raises:
        ValueError: for a device that is not there, an eps out of range, or, when run, a model's output of another shape.
    """
    _check(sde, eps, device)

    def pc_sampler(model: Model) -> tuple[Any, int]:
        table = table_of(sde, predictor, probability_flow, eps, denoise)
        score_fn = _Counted(get_score_fn(sde, model, train=False, continuous=continuous))
        correct = (NoneCorrector if corrector is None else corrector)(sde, score_fn, snr, n_steps)
        correct.generator = generator
        with torch.no_grad():
            x = _prior(sde, shape, generator).to(device)

            def vector(t: float) -> Tensor:
                return torch.full((len(x),), t, device=x.device, dtype=x.dtype)

            if table is None:
                predict = (NonePredictor if predictor is None else predictor)(sde, score_fn, probability_flow)
                predict.generator = generator
                mean = x
                for t in torch.linspace(sde.T, eps, sde.N, dtype=torch.float64).tolist():
                    x, _ = correct.update_fn(x, vector(t))
                    x, mean = predict.update_fn(x, vector(t))
                x = mean if denoise else x
            else:
                x = table.run(score_fn, x, noise_of(generator), lambda x, t: correct.update_fn(x, vector(t))[0])
            return inverse_scaler(x), score_fn.calls

    return pc_sampler


def get_ode_sampler(
    sde: SDE,
    shape: Sequence[int],
    inverse_scaler: Scaler,
    denoise: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str = "RK45",
    eps: float = 1e-3,
    device: str | torch.device = "cuda",
    *,
    generator: torch.Generator | None = None,
) -> Callable[..., tuple[Any, int]]:
    """The probability-flow ODE from t = 1 to eps by `scipy.integrate.solve_ivp`, for a model trained at all times.

    Args:
        sde: the process.
        shape: of the samples, (b, *d).
        inverse_scaler: what is done to the samples in the end.
        denoise: whether a noise-free step of reverse diffusion follows.
        rtol: relative tolerance, > 0.
        atol: absolute tolerance, > 0.
        method: one that our `ScipyODE` takes, such as "RK45".
        eps: the last time, in (0, 1).
        device: where to sample; the model must be there.
        generator: source of the latent codes; None: torch's global generator.

    Returns:
        A function of the model, and if wanted of latent codes `z` (b, *d), that returns samples and the number of calls of the model.

    Raises:
        ValueError: for an unknown method, a device that is not there or an eps out of range.
    """
    _check(sde, eps, device)

    def ode_sampler(model: Model, z: Tensor | None = None) -> tuple[Any, int]:
        score_fn = _Counted(get_score_fn(sde, model, train=False, continuous=True))
        flow = sde.reverse(score_fn, probability_flow=True)
        with torch.no_grad():
            x = (_prior(sde, shape, generator) if z is None else z).to(device)
            x = integrate(lambda x, t: flow.sde(x, t)[0], x, (sde.T, eps), rtol=rtol, atol=atol, method=method)
            if denoise:
                x = x - sde.reverse(score_fn).discretize(x, x.new_full((len(x),), eps))[0]
            return inverse_scaler(x), score_fn.calls

    return ode_sampler


def get_sampling_fn(
    config: Any, sde: SDE, shape: Sequence[int], inverse_scaler: Scaler, eps: float, *, generator: torch.Generator | None = None
) -> Callable[..., tuple[Any, int]]:
    """The sampler that a configuration names.

    Args:
        config: with `device`, `sampling.method` ("pc" or "ode"), `sampling.noise_removal`, and for "pc" `sampling.predictor`,
            `sampling.corrector`, `sampling.snr`, `sampling.n_steps_each`, `sampling.probability_flow`, `training.continuous`.
        sde: the process.
        shape: of the samples, (b, *d).
        inverse_scaler: what is done to the samples in the end.
        eps: the last time.
        generator: as for the samplers.

    Raises:
        ValueError: for another method, or a predictor or corrector that is not registered.
    """
    settings = config.sampling
    method = settings.method.lower()
    if method == "ode":
        return get_ode_sampler(
            sde, shape, inverse_scaler, denoise=settings.noise_removal, eps=eps, device=config.device, generator=generator
        )
    if method != "pc":
        raise ValueError(f"sampling.method must be 'pc' or 'ode', got {settings.method!r}")
    return get_pc_sampler(
        sde,
        shape,
        get_predictor(settings.predictor.lower()),
        get_corrector(settings.corrector.lower()),
        inverse_scaler,
        settings.snr,
        n_steps=settings.n_steps_each,
        probability_flow=settings.probability_flow,
        continuous=config.training.continuous,
        denoise=settings.noise_removal,
        eps=eps,
        device=config.device,
        generator=generator,
    )


def shared_predictor_update_fn(
    x: Tensor,
    t: Tensor,
    sde: SDE,
    model: Model,
    predictor: type[Predictor] | None,
    probability_flow: bool,
    continuous: bool,
) -> Update:
    """One update of a predictor, made for the model; conditional samplers are written with it. Arguments as for `get_pc_sampler`."""
    score_fn = get_score_fn(sde, model, train=False, continuous=continuous)
    return (NonePredictor if predictor is None else predictor)(sde, score_fn, probability_flow).update_fn(x, t)


def shared_corrector_update_fn(
    x: Tensor,
    t: Tensor,
    sde: SDE,
    model: Model,
    corrector: type[Corrector] | None,
    continuous: bool,
    snr: float,
    n_steps: int,
) -> Update:
    """One update of a corrector, made for the model; conditional samplers are written with it. Arguments as for `get_pc_sampler`."""
    score_fn = get_score_fn(sde, model, train=False, continuous=continuous)
    return (NoneCorrector if corrector is None else corrector)(sde, score_fn, snr, n_steps).update_fn(x, t)


def _prior(sde: SDE, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    if isinstance(sde, AffineScoreSDE):
        return sde.prior_sampling(shape, generator=generator)
    return sde.prior_sampling(shape)


def _check(sde: SDE, eps: float, device: str | torch.device) -> None:
    if not 0 < eps < sde.T:
        raise ValueError(f"eps must lie between 0 and T={sde.T}, got {eps}; the reference takes 1e-3 for VP and sub-VP, 1e-5 for VE")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"there is no {str(device)!r} here, the reference's default; pass device='cpu'")
