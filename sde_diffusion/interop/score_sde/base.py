"""What score_sde_pytorch asks of a process, and its reversal: dx = (drift - g^2 score) dt + g dw, or dx = (drift - g^2/2 score) dt."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sde_diffusion.noise import Noise, Stream
from sde_diffusion.sdes.base import check_count
from sde_diffusion.shapes import expand

ScoreFn = Callable[[Tensor, Tensor], Tensor]
"""(x (b, *d), t (b,)) -> the score, (b, *d)."""

_ULPS = 4  # by which t (N - 1) may come out smaller than the whole number that it means


class SDE(abc.ABC):
    """The base class; a process of your own defines its abstract methods, and every sampler and the likelihood work with it.

    Args:
        N: number of steps, at least 1.
    """

    alphas: Tensor | None = None
    """1 - beta_i, by which Langevin correctors shorten their steps; None: they do not."""

    def __init__(self, N: int) -> None:
        check_count(N=N)
        self.N = N

    @property
    @abc.abstractmethod
    def T(self) -> float:  # noqa: N802
        """The last time."""

    @abc.abstractmethod
    def sde(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The drift (b, *d) and the diffusion coefficient (b,) at states x (b, *d) and times t (b,)."""

    @abc.abstractmethod
    def marginal_prob(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (b, *d) and standard deviation (b,) of x_t given x_0 = x."""

    @abc.abstractmethod
    def prior_sampling(self, shape: Sequence[int]) -> Tensor:
        """Draws from the prior, of the given shape, on the CPU."""

    @abc.abstractmethod
    def prior_logp(self, z: Tensor) -> Tensor:
        """Log-density (b,) of the prior in nats."""

    def discretize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """f (b, *d) and G (b,) of the step x_{i+1} = x_i + f + G z; by default Euler-Maruyama's of length 1/N."""
        drift, diffusion = self.sde(x, t)
        return drift / self.N, diffusion / self.N**0.5

    def reverse(self, score_fn: ScoreFn, probability_flow: bool = False) -> ReverseSDE:
        """The reverse-time SDE, or the probability-flow ODE, for a score (b, *d) of states x (b, *d) and times t (b,)."""
        return ReverseSDE(self, score_fn, probability_flow)

    def step(self, t: Tensor) -> Tensor:
        """The number i = 0..N-1 of the step of the chain that ends near the times t (b,)."""
        return torch.floor(t * ((self.N - 1) / self.T) + _ULPS * torch.finfo(t.dtype).eps * self.N).long().clamp(0, self.N - 1)

    def label_and_weight(self, x: Tensor, t: Tensor, continuous: bool) -> tuple[Tensor, Tensor]:
        """What a model of this process is told at times t (b,), and (b,) what its output is multiplied by to be the score."""
        raise NotImplementedError(
            f"it is not known what a model of a {type(self).__name__} predicts; define label_and_weight(x, t, continuous), "
            "or derive from VPSDE (which predicts noise) or VESDE (the score)"
        )


class ReverseSDE:
    """The reverse-time SDE or the flow; made by `sde.reverse(score_fn, probability_flow)`."""

    def __init__(self, forward: SDE, score_fn: ScoreFn, probability_flow: bool) -> None:
        self.forward, self.score_fn, self.probability_flow = forward, score_fn, probability_flow
        self.N, self.T = forward.N, forward.T

    def sde(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The drift (b, *d), in the direction of growing t, and the diffusion coefficient (b,)."""
        return self._reverse(*self.forward.sde(x, t), x, t)

    def discretize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """f (b, *d) and G (b,) of the step x_i = x_{i+1} - f + G z."""
        return self._reverse(*self.forward.discretize(x, t), x, t)

    def _reverse(self, drift: Tensor, diffusion: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        weight = expand(diffusion, x) ** 2 * (0.5 if self.probability_flow else 1.0)
        return drift - weight * self.score_fn(x, t), torch.zeros_like(diffusion) if self.probability_flow else diffusion


def noise_of(generator: torch.Generator | None) -> Noise:
    """Normal numbers from a generator, or, as the reference has them, from torch's global one."""
    return torch.randn_like if generator is None else Stream(generator)
