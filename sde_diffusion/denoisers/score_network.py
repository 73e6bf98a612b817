"""A network as the score of a process that has no Gaussian kernel.

    nabla log p_t(x) = nabla log prior(x) + F(x, t)                                             (1)

There a belief about x_0 is not worth a score: Tweedie's formula needs x_t | x_0 to be Gaussian. So the network predicts the score, and sees
the time instead of the noise level. Beside the prior's score it is 0 at the end of time, and states far from any data are pulled back:
backwards in time dx = -x^3 dt has x^3, which only the score's -2 x^3 can hold, and no network grows like that where it saw nothing.
"""

from __future__ import annotations

from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, nn

from sde_diffusion.sdes import SDE
from sde_diffusion.shapes import Time, as_time, check_time_shape


class ScoreModel(Protocol):
    """A process and its score: a `ScoreNetwork`, any `Denoiser`, or an object of your own."""

    @property
    def sde(self) -> SDE: ...

    def score(self, x: Tensor, t: Time, cond: Any = None) -> Tensor: ...


class ScoreNetwork(nn.Module):
    """Any module with `forward(x, t)`, or `forward(x, t, cond)` where a condition is used, as the score (1) of any process.

    It is trained by `SlicedScoreMatching` and its relatives and sampled by `simulate_reverse` or, through `sde.reverse(model)`, by
    torchsde and SciPy. For an affine process use `NetworkDenoiser(network, sde, Score())`, which every solver and loss takes.

    Args:
        network: takes states (b, *d) and times (b,), in the dtype of the states; returns the shape of the states.
        sde: the process whose score it is; the prior's score is the gradient of `sde.prior_log_prob`.
        prior: whether F stands beside the prior's score, or is the score alone.

    Raises:
        ValueError: at the first call, if the network returns another shape.
    """

    def __init__(self, network: nn.Module, sde: SDE, *, prior: bool = True) -> None:
        super().__init__()
        self.network = network
        self.sde = sde
        self.prior = prior

    def score(self, x: Tensor, t: Time, cond: Any = None) -> Tensor:
        """nabla_x log p_t(x) at states x (b, *d) and times t () or (b,), shape of x."""
        t = as_time(t, x)
        check_time_shape(t, x)
        times = t.to(x).expand(len(x))
        y: Tensor = self.network(x, times) if cond is None else self.network(x, times, cond)
        check_score(y, x)
        return y + prior_score(self.sde, x) if self.prior else y

    def forward(self, x: Tensor, t: Time, cond: Any = None) -> NoReturn:
        raise TypeError(
            f"a ScoreNetwork knows the score of {self.sde}, not x0_hat: train it by SlicedScoreMatching(), ImplicitScoreMatching(), "
            "FiniteDifferenceScoreMatching() or LastStepScoreMatching(), and sample by simulate_reverse; "
            "for an affine process use NetworkDenoiser(network, sde, Score())"
        )


def prior_score(sde: SDE, x: Tensor) -> Tensor:
    """nabla log prior(x), differentiable in x where gradients are recorded."""
    recorded = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        x = x if recorded else x.detach().requires_grad_()
        (score,) = torch.autograd.grad(sde.prior_log_prob(x).sum(), x, create_graph=recorded)
    return score


def check_score(score: Tensor, x: Tensor) -> Tensor:
    """Returns the score, or raises ValueError if it has not the shape of the states x: (b,) against (b, 1) would make (b, b)."""
    if score.shape != x.shape:
        raise ValueError(f"the score has shape {tuple(score.shape)} for states of shape {tuple(x.shape)}; it must return their shape")
    return score
