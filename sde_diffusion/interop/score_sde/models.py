"""Models of score_sde_pytorch, `model(x, labels)`, as score functions and as our denoisers (its `models/utils.py`).

    process       continuous   labels             the model predicts
    VP            yes          999 t              -sigma score = eps, sigma = sigma(t)
    VP            no           (N - 1) t          -sigma score, sigma that of the chain's node floor((N - 1) t) + 1
    sub-VP        either       999 t              -sigma score
    VE            yes          sigma(t)           score
    VE            no           (N - 1)(1 - t), rounded, as integers
                                                  score

Unlike the reference, a model's output is checked: one of another shape would broadcast into a wrong score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sde_diffusion.denoisers import Denoiser, NetworkDenoiser, TimeLabel
from sde_diffusion.denoisers.base import Prediction
from sde_diffusion.interop.score_sde.base import SDE, ScoreFn
from sde_diffusion.interop.score_sde.sdes import AffineScoreSDE
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.shapes import Time, as_time, expand

Model = Callable[[Tensor, Tensor], Tensor]
"""(x (b, *d), labels (b,)) -> (b, *d); a module or any function."""


def get_model_fn(model: Model, train: bool = False) -> Model:
    """The model as a function that puts it into training or evaluation mode at each call.

    Raises:
        ValueError: at a call, if the model does not return a tensor of the shape of x.
    """

    def model_fn(x: Tensor, labels: Tensor) -> Tensor:
        if isinstance(model, nn.Module):
            model.train(train)
        y = model(x, labels)
        if not isinstance(y, Tensor) or y.shape != x.shape:
            got = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
            cure = "it must keep the shape" if isinstance(y, Tensor) else "pass lambda x, labels: model(x, labels).sample, or the like"
            raise ValueError(f"the model returned {got} for states of shape {tuple(x.shape)}; {cure}")
        return y

    return model_fn


def get_score_fn(sde: SDE, model: Model, train: bool = False, continuous: bool = False) -> ScoreFn:
    """The score function of a model; differentiable.

    Args:
        sde: the process.
        model: what predicts, by the table of this module.
        train: whether the model is in training mode when it is called.
        continuous: whether it was trained at all times, not at N of them only.

    Returns:
        A function of states x (b, *d) and times t (b,).

    Raises:
        NotImplementedError: at a call, for a process that does not say what its models predict.
        ValueError: at a call, if the model returns another shape.
    """
    model_fn = get_model_fn(model, train)

    def score_fn(x: Tensor, t: Tensor) -> Tensor:
        labels, weight = sde.label_and_weight(x, t, continuous)
        return expand(weight, x) * model_fn(x, labels)

    return score_fn


def denoiser(sde: AffineScoreSDE, model: nn.Module, continuous: bool = True) -> NetworkDenoiser:
    """Our denoiser for a model of score_sde_pytorch: every solver of this package then runs on it.

    Args:
        sde: VPSDE, subVPSDE or VESDE.
        model: the module, which is put into evaluation mode.
        continuous: whether it was trained at all times; if not, the process is `sde.chain`.
    """
    process, parameterization, conditioning = sde.trained(continuous)
    whole = isinstance(conditioning, TimeLabel) and conditioning.whole
    return NetworkDenoiser(_Whole(model) if whole else model, process, parameterization, conditioning).eval()


class _Whole(nn.Module):
    """A model that looks its labels up in a table, and so wants integers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        y: Tensor = self.model(x, labels.long())
        return y


class ScoreFunction(Denoiser):
    """A score function as a denoiser, x0_hat = (x + sigma^2 score)/alpha, for the tables of our solvers.

    Args:
        sde: the process whose states it is given.
        score_fn: the score at states x and times tau(t).
        tau: from the times of `sde` to those of `score_fn`, float64 both.
    """

    def __init__(self, sde: AffineSDE, score_fn: ScoreFn, tau: Callable[[Tensor], Tensor]) -> None:
        super().__init__(sde)
        self.score_fn, self.tau = score_fn, tau

    def score(self, x: Tensor, t: Time, cond: Any = None) -> Tensor:
        return self.score_fn(x, self.tau(as_time(t, x)).to(x).expand(len(x)))

    def forward(self, x: Tensor, t: Time, cond: Any = None) -> Tensor:
        t = as_time(t, x)
        return (x + expand(self.sde.sigma(t), x) ** 2 * self.score(x, t)) / expand(self.sde.alpha(t), x)

    def at(self, times: Tensor, like: Tensor) -> list[Prediction]:
        alpha, variance = self.sde.alpha(times), self.sde.sigma(times) ** 2
        taus = self.tau(times).to(like)[:, None].expand(-1, len(like)).unbind()

        def fix(tau: Tensor, skip: float, out: float) -> Prediction:
            return Prediction(lambda x, cond: self.score_fn(x, tau), skip, out)

        return [fix(*c) for c in zip(taus, (1 / alpha).tolist(), (variance / alpha).tolist(), strict=True)]


def to_flattened_numpy(x: Tensor) -> Any:
    """The numbers of a tensor as an array of one dimension."""
    return x.detach().cpu().numpy().reshape(-1)


def from_flattened_numpy(x: Any, shape: Sequence[int]) -> Tensor:
    """A tensor of the given shape of an array."""
    return torch.from_numpy(np.ascontiguousarray(x)).reshape(tuple(shape))
