"""What a loss is, to whatever trains by it, and what all of ours have in common.

To the training loop a loss is anything that fits the two protocols. One without parameters is a frozen dataclass; one that has some, or
that remembers, is an nn.Module besides. Both have a repr that builds them back. Parameters are trained with the network's, and buffers
kept in checkpoints.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.denoisers.score_network import ScoreModel
from sde_diffusion.losses.times import TimeLaw, uniforms
from sde_diffusion.noise import Noise, make_noise
from sde_diffusion.sdes import SDE
from sde_diffusion.sdes.learned import LearnedSDE
from sde_diffusion.shapes import Time, as_time

Model = TypeVar("Model", bound=ScoreModel)


@runtime_checkable
class Loss(Protocol):
    """A loss of each sample, and the law of the times at which it is taken."""

    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        *,
        t: Time | None = None,
        eps: Tensor | None = None,
        cond: Any = None,
        noise: Noise | None = None,
        generator: torch.Generator | None = None,
        seeds: Iterable[int] | None = None,
    ) -> Tensor:
        """The loss (b,) of data x0 (b, *d) at times t, drawn if None, with noise eps (b, *d), drawn if None."""

    def draw_times(self, denoiser: Denoiser, x0: Tensor, noise: Noise) -> Tensor:
        """One time per sample, float64 (b,)."""


@runtime_checkable
class Observer(Protocol):
    """A loss that learns from the losses it sees, such as by a time law that follows them."""

    def observe(self, t: Tensor, losses: Tensor) -> None:
        """Takes note of the losses (b,) at times (b,) of a whole step, the same on all processes and without gradients."""


class DrawnLoss(abc.ABC, Generic[Model]):
    """A loss whose times are drawn where none are given; what it is at a time is left to subclasses."""

    def __call__(
        self,
        denoiser: Model,
        x0: Tensor,
        *,
        t: Time | None = None,
        eps: Tensor | None = None,
        cond: Any = None,
        noise: Noise | None = None,
        generator: torch.Generator | None = None,
        seeds: Iterable[int] | None = None,
    ) -> Tensor:
        """The loss of each sample, (b,).

        Args:
            denoiser: what is trained.
            x0: data (b, *d), floating point.
            t: times () or (b,); drawn if None.
            eps: standard normal noise (b, *d); drawn if None.
            cond: condition handed to the denoiser.
            noise: the source of all that is drawn; or `generator` or `seeds`.

        Raises:
            TypeError: for a model that the loss cannot train.
            ValueError: for a process that it is not about, data of whole numbers, and times outside the process or of another length
                than x0.
        """
        self.check(denoiser)
        if not x0.is_floating_point():
            raise ValueError(f"x0 must be floating point, got {x0.dtype}; bring bytes to [-1, 1] by x0 / 127.5 - 1")
        draw = make_noise(noise, generator=generator, seeds=seeds)
        if t is None:
            t = self.draw_times(denoiser, x0, draw)
        else:
            t = as_time(t, x0).to(x0.device)
            self.check_times(denoiser.sde, t, x0)
        return self.loss_at(denoiser, x0, t, eps, cond, draw)

    def check(self, denoiser: Model) -> None:
        """Raises TypeError for a model that the loss cannot train, ValueError for a process that it is not about."""
        if isinstance(denoiser.sde, LearnedSDE):  # DenoisingScoreMatching moves log-SNRs of 4 and -2.5 to 1.3 and -4.8 in 300 steps
            raise ValueError(
                f"{denoiser.sde} would lower {type(self).__name__} by its noise levels, whatever the network knows; "
                "a schedule is learned by VDMLoss(): use that, or the schedule's frozen()"
            )

    def check_times(self, sde: Any, t: Tensor, x0: Tensor) -> None:
        """Raises ValueError for times outside the process, or of another length than x0."""
        if t.shape not in {(), (len(x0),)}:
            raise ValueError(f"t must have shape () or ({len(x0)},), one time per sample, got {tuple(t.shape)}")
        low, high = self.times_of(sde)
        if not ((t >= low) & (t <= high)).all():
            raise ValueError(
                f"t must lie in [{low}, {high}], where {sde} lives (0 = data, 1 = noise), got {t.min().item():g} to {t.max().item():g}"
            )

    def times_of(self, sde: SDE) -> tuple[float, float]:
        """The smallest and the largest time at which the loss may be taken."""
        return sde.t_min, sde.t_max

    @abc.abstractmethod
    def draw_times(self, denoiser: Model, x0: Tensor, noise: Noise) -> Tensor:
        """One time per sample, float64 (b,)."""

    @abc.abstractmethod
    def loss_at(self, denoiser: Model, x0: Tensor, t: Tensor, eps: Tensor | None, cond: Any, draw: Noise) -> Tensor:
        """The loss (b,) at times t () or (b,), which are checked, with noise eps from `draw` where it is None."""


class KernelLoss(DrawnLoss[Denoiser]):
    """A loss of a belief about x_0, for affine processes; its times follow the law `times`, a field of the final class as `stratified`."""

    times: TimeLaw
    stratified: bool

    def check(self, denoiser: Denoiser) -> None:
        super().check(denoiser)
        check_denoiser(self, denoiser)

    def check_times(self, sde: Any, t: Tensor, x0: Tensor) -> None:
        super().check_times(sde, t, x0)
        if not sde.sigma(t).all():
            raise ValueError(f"there is no noise at t=0 under {sde}, and nothing to learn; take times above 0")

    def times_of(self, sde: SDE) -> tuple[float, float]:
        return 0.0, sde.t_max  # laws of times have a t_min of their own

    def draw_times(self, denoiser: Denoiser, x0: Tensor, noise: Noise) -> Tensor:
        """One time per sample from the law, float64 (b,)."""
        return self.times.quantile(denoiser.sde, uniforms(x0, noise, stratified=self.stratified))

    def observe(self, t: Tensor, losses: Tensor) -> None:
        """Tells a law of times that learns what a step's losses (b,) were, as __call__ returned them, at its times (b,)."""
        self.times.observe(t, losses)


def check_denoiser(loss: object, denoiser: object) -> None:
    """Raises TypeError unless the model is a Denoiser, which needs a process with a Gaussian kernel x_t | x_0."""
    if not isinstance(denoiser, Denoiser):
        raise TypeError(
            f"{type(loss).__name__} trains a belief about x_0, and {type(denoiser).__name__} is no Denoiser; for an affine process take "
            "NetworkDenoiser(network, sde, Score()), for another SlicedScoreMatching, FiniteDifferenceScoreMatching or "
            "LastStepScoreMatching, which train a ScoreNetwork on simulated paths"
        )
