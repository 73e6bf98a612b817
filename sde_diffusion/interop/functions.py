"""Other people's functions and modules as denoisers, in one line.

    from_denoised     model(x0 + sigma n, sigma) -> x0_hat          k-diffusion, EDM
    from_prediction   model(x, label) -> eps, score, v, velocity or x0_hat, for x on the process' own scale

Both are a NetworkDenoiser of the model, and so do all arithmetic on times before the sampling loop. A condition is the third argument of
the model, and is passed only where there is one: for a model that wants it by name, `lambda x, t, cond: model(x, t, class_labels=cond)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from sde_diffusion.denoisers.conditioning import Conditioning, NoiseRatio, TimeLabel
from sde_diffusion.denoisers.network import NetworkDenoiser
from sde_diffusion.denoisers.parameterizations import X0, Epsilon, Parameterization, PlainScore, RescaledX0, V, Velocity
from sde_diffusion.sdes import EDMSDE, AffineSDE

_EDM = EDMSDE()
_TIME = TimeLabel(1.0)
Predicts = Literal["eps", "score", "v", "velocity", "x0"]
_PARAMETERIZATIONS: dict[str, Callable[[AffineSDE], Parameterization]] = {
    "eps": lambda sde: Epsilon(),
    "score": lambda sde: PlainScore(),
    "v": lambda sde: V(),
    "velocity": Velocity,
    "x0": lambda sde: X0(),
}


def from_denoised(model: Callable[..., Tensor], sde: AffineSDE = _EDM) -> NetworkDenoiser:
    """A denoiser of a model that takes data plus noise, and the noise's standard deviation, and returns the data.

        x0_hat = model(x/alpha, sigma/alpha)                                                    Karras et al. 2022; k-diffusion

    For EDMSDE and VESDE alpha is 1. A model that is a plain function is not trained, moved or saved with the denoiser.

    Args:
        model: module or function of states (b, *d) and sigma (b,), and of a condition if there is one; returns the shape of x.
        sde: the process to sample with; EDM's if not given.

    Raises:
        TypeError: if the model is not callable.
    """
    return NetworkDenoiser(_module(model), sde, RescaledX0(), NoiseRatio())


def from_prediction(model: Callable[..., Tensor], sde: AffineSDE, *, predicts: Predicts, label: Conditioning = _TIME) -> NetworkDenoiser:
    """A denoiser of a model that takes states of the process and returns one of

        eps         the noise
        score       grad log p_t(x); where it is sigma times that, eps = -model
        v           alpha eps - sigma x0 of the state brought to alpha^2 + sigma^2 = 1, which for VPSDE and DDPMChain it is already;
                    for the others the model is given x/(alpha^2 + sigma^2)^(1/2) (Salimans & Ho 2022)
        velocity    dx/dt of the probability-flow ODE, f x - g^2/2 score, in the direction of growing t: from data to noise, so
                    eps - x0 for RectifiedFlow; -dx/dt of papers whose data are at t = 1
        x0          the data

    A model that is a plain function is not trained, moved or saved with the denoiser.

    Args:
        model: module or function of states (b, *d) and labels (b,), and of a condition if there is one; returns the shape of x.
        sde: the process that it was trained for.
        predicts: what it returns.
        label: what it is told of the noise; t itself, if nothing else is said. TimeLabel(n, -1) are a chain's steps 0..n-1.

    Raises:
        TypeError: if the model is not callable.
        ValueError: for another `predicts`.
    """
    if predicts not in _PARAMETERIZATIONS:
        raise ValueError(
            f"predicts must be one of {', '.join(_PARAMETERIZATIONS)}, got {predicts!r}; for others, use NetworkDenoiser with a "
            "Parameterization of your own"
        )
    return NetworkDenoiser(_module(model), sde, _PARAMETERIZATIONS[predicts](sde), label)


class _Function(nn.Module):
    """A function as a module without parameters."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, label: Tensor, *cond: Any) -> Tensor:
        return self.function(x, label, *cond)


def _module(model: Callable[..., Tensor]) -> nn.Module:
    if not callable(model):
        raise TypeError(f"model must be a module or a function of states and labels, got {model!r}")
    return model if isinstance(model, nn.Module) else _Function(model)
