"""The training losses of score_sde_pytorch (its `losses.py`): with x_t = alpha x_0 + sigma z, averaged over the batch,

    get_sde_loss_fn      R |sigma score(x_t, t) + z|^2,  or g^2 R |score(x_t, t) + z/sigma|^2,  t uniform on [eps, 1]    (continuous)
    get_smld_loss_fn     R |sigma_i F(x_t, label) + z|^2                                    label uniform on 0..N-1      (VE)
    get_ddpm_loss_fn     R |F(x_t, label) - z|^2                                            the same                     (VP)

F the model, R the mean over the data's dimensions or half the sum. They are `DenoisingScoreMatching(SimpleWeighting())` or, with g^2,
`DenoisingScoreMatching(LikelihoodWeighting())` of `denoiser(sde, model)`, written in the score: its x0_hat - x_0 is as small as sigma.

Unlike the reference, data may have any number of dimensions. Random numbers come from torch's global generator, unless `generator=` is
given.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.interop.score_sde.base import SDE, noise_of
from sde_diffusion.interop.score_sde.models import Model, get_model_fn, get_score_fn
from sde_diffusion.interop.score_sde.sdes import VESDE, VPSDE
from sde_diffusion.shapes import expand, mean_event, sum_event

LossFn = Callable[[Model, Tensor], Tensor]
"""(model, data (b, *d)) -> the loss, ()."""


def get_sde_loss_fn(
    sde: SDE,
    train: bool,
    reduce_mean: bool = True,
    continuous: bool = True,
    likelihood_weighting: bool = True,
    eps: float = 1e-5,
    *,
    generator: torch.Generator | None = None,
) -> LossFn:
    """The loss at all times.

    Args:
        sde: the process.
        train: whether the model is in training mode.
        reduce_mean: whether R is the mean, not half the sum.
        continuous: whether the model is told all times.
        likelihood_weighting: whether the weight is g^2, for the likelihood's bound, not sigma^2.
        eps: the smallest time, > 0.
        generator: source of t and z; None: torch's global generator.
    """

    def loss_fn(model: Model, batch: Tensor) -> Tensor:
        score_fn = get_score_fn(sde, model, train, continuous)
        t = _uniform(batch, generator) * (sde.T - eps) + eps
        z = noise_of(generator)(batch)
        mean, std = sde.marginal_prob(batch, t)
        score = score_fn(mean + expand(std, batch) * z, t)
        if not likelihood_weighting:
            return _reduce(expand(std, batch) * score + z, reduce_mean).mean()
        weight = sde.sde(torch.zeros_like(batch), t)[1] ** 2
        return (weight * _reduce(score + z / expand(std, batch), reduce_mean)).mean()

    return loss_fn


def get_smld_loss_fn(vesde: SDE, train: bool, reduce_mean: bool = False, *, generator: torch.Generator | None = None) -> LossFn:
    """NCSN's loss, for a model of a VE chain: labels count from the largest sigma; arguments as above.

    Raises:
        ValueError: for another process.
    """
    if not isinstance(vesde, VESDE):
        raise ValueError(f"NCSN is trained on VESDE, got {type(vesde).__name__}; use get_sde_loss_fn")

    def loss_fn(model: Model, batch: Tensor) -> Tensor:
        labels, z = _labels(vesde.N, batch, generator), noise_of(generator)(batch)
        sigma = expand(vesde.chain.sigma(1 - labels.double() / vesde.N), batch)
        return _reduce(sigma * get_model_fn(model, train)(batch + sigma * z, labels) + z, reduce_mean).mean()

    return loss_fn


def get_ddpm_loss_fn(vpsde: SDE, train: bool, reduce_mean: bool = True, *, generator: torch.Generator | None = None) -> LossFn:
    """DDPM's loss, for a model of a VP chain; arguments as above.

    Raises:
        ValueError: for another process.
    """
    if not isinstance(vpsde, VPSDE):
        raise ValueError(f"DDPM is trained on VPSDE, got {type(vpsde).__name__}; use get_sde_loss_fn")

    def loss_fn(model: Model, batch: Tensor) -> Tensor:
        labels, z = _labels(vpsde.N, batch, generator), noise_of(generator)(batch)
        x = vpsde.chain.perturb(batch, (labels.double() + 1) / vpsde.N, z)
        return _reduce(get_model_fn(model, train)(x, labels) - z, reduce_mean).mean()

    return loss_fn


def get_step_fn(
    sde: SDE,
    train: bool,
    optimize_fn: Callable[..., None] | None = None,
    reduce_mean: bool = False,
    continuous: bool = True,
    likelihood_weighting: bool = False,
    *,
    generator: torch.Generator | None = None,
) -> Callable[[MutableMapping[str, Any], Tensor], Tensor]:
    """One step of training, or the loss of the averaged weights.

    Args:
        sde: the process.
        train: whether to train.
        optimize_fn: called as `optimize_fn(optimizer, parameters, step=step)` when the gradients are there; needed to train.
        reduce_mean: as above.
        continuous: whether the model is told all times.
        likelihood_weighting: as above; for continuous training only.
        generator: as above.

    Returns:
        A function of the state, with "model", "optimizer", "step" and "ema" (which has update, store, copy_to and restore), and a batch.

    Raises:
        ValueError: for arguments that do not go together.
    """
    if train and optimize_fn is None:
        raise ValueError("training needs optimize_fn; pass lambda optimizer, parameters, step: optimizer.step()")
    if continuous:
        loss_fn = get_sde_loss_fn(sde, train, reduce_mean, True, likelihood_weighting, generator=generator)
    elif likelihood_weighting:
        raise ValueError("the likelihood's weighting is for continuous training; pass continuous=True or likelihood_weighting=False")
    else:
        loss_fn = (get_smld_loss_fn if isinstance(sde, VESDE) else get_ddpm_loss_fn)(sde, train, reduce_mean, generator=generator)

    def step_fn(state: MutableMapping[str, Any], batch: Tensor) -> Tensor:
        model, ema = state["model"], state["ema"]
        if optimize_fn is not None and train:
            state["optimizer"].zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()
            optimize_fn(state["optimizer"], model.parameters(), step=state["step"])
            state["step"] += 1
            ema.update(model.parameters())
            return loss
        with torch.no_grad():
            ema.store(model.parameters())
            ema.copy_to(model.parameters())
            loss = loss_fn(model, batch)
            ema.restore(model.parameters())
        return loss

    return step_fn


def _reduce(difference: Tensor, mean: bool) -> Tensor:
    """R of the squares, (b,)."""
    return mean_event(difference**2) if mean else 0.5 * sum_event(difference**2)


def _uniform(batch: Tensor, generator: torch.Generator | None) -> Tensor:
    device = batch.device if generator is None else generator.device
    return torch.rand(len(batch), generator=generator, device=device).to(batch)


def _labels(n: int, batch: Tensor, generator: torch.Generator | None) -> Tensor:
    device = batch.device if generator is None else generator.device
    return torch.randint(0, n, (len(batch),), generator=generator, device=device).to(batch.device)
