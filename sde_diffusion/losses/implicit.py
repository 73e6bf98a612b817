"""Implicit score matching: a score is learned from states alone, without any conditional score.

Integration by parts removes the unknown from E|s - nabla log p|^2/2 (Hyvarinen 2005): with J the Jacobian of s, up to a constant it is

    E[ |s|^2/2 + tr J ]                                                                         exact, d backward passes       (1)
    E[ |s|^2/2 + v.J v ],    E[v v^T] = I                                                       sliced                         (2)
    E[ |(s+ + s-)/2|^2/2 + v.(s+ - s-)/(2 e) ],    s± = s(x ± e v)                              finite differences             (3)

(2) is sliced score matching with reduced variance; without the reduction |s|^2 is (v.s)^2 (Song et al. 2019, arXiv 1905.07088). (3) needs
no derivative of s (Pang et al. 2020, arXiv 2007.03317): s+ - s- = 2 e J v + O(e^3) and (s+ + s-)/2 = s + O(e^2), so that it is (2) up to
O(e^2). All are means over the d dimensions here, as every loss. The states are the ends of simulated paths, see simulated.py.

Where data lie on a manifold, and no noise was added, (1) has no minimum: s = -x/w across it makes (1) -1/w per dimension, for any w > 0
(Song & Ermon 2019, arXiv 1907.05600, section 3). Times must stay above 0 then.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sde_diffusion.denoisers.jacobian import recorded
from sde_diffusion.denoisers.score_network import ScoreModel, check_score
from sde_diffusion.expressions import plain_floats
from sde_diffusion.losses.simulated import SimulatedScoreMatching, states
from sde_diffusion.noise import Noise, make_noise
from sde_diffusion.sdes.base import check_count, check_positive
from sde_diffusion.shapes import Time, as_time, mean_event, sum_event


@dataclasses.dataclass(frozen=True)
class _Implicit(SimulatedScoreMatching):
    """A loss of given states."""

    def at(self, model: ScoreModel, x: Tensor, t: Time, *, cond: Any = None, noise: Noise | None = None) -> Tensor:
        """The unweighted loss (b,) at given states x (b, *d) of times t, instead of simulated ones.

        Args:
            model: the score.
            x: states, such as samples of p_t, or data without noise.
            t: their times, () or (b,).
            cond: condition handed to the score.
            noise: the source of the probes.
        """
        draw = make_noise(noise)
        probes = draw(x.new_empty(len(x), self._probes, *x.shape[1:])) if self._probes else x.new_empty(len(x), 0)
        return self._objective(model, x, as_time(t, x), cond, probes.unbind(1))

    def _loss(self, model: ScoreModel, x0: Tensor, t: Tensor, cond: Any, path: tuple[Tensor, ...], probes: tuple[Tensor, ...]) -> Tensor:
        return self._objective(model, states(model.sde, x0, t / self.steps, path), t, cond, probes)

    @abc.abstractmethod
    def _objective(self, model: ScoreModel, x: Tensor, t: Tensor, cond: Any, probes: tuple[Tensor, ...]) -> Tensor:
        """(b,) from states and standard normal numbers."""


@dataclasses.dataclass(frozen=True)
class ImplicitScoreMatching(_Implicit):
    """Hyvarinen's objective (1), with the exact trace: one backward pass per dimension, at most `max_dim`.

    The arguments are those of `SimulatedScoreMatching`.

    Raises:
        ValueError: when called, for states of more than 64 dimensions.
    """

    max_dim: ClassVar[int] = 64

    def _objective(self, model: ScoreModel, x: Tensor, t: Tensor, cond: Any, probes: tuple[Tensor, ...]) -> Tensor:
        if x[0].numel() > self.max_dim:
            raise ValueError(
                f"the exact trace takes one backward pass per dimension, at most {self.max_dim}, and states of shape {tuple(x.shape[1:])} "
                f"have {x[0].numel()}; use SlicedScoreMatching or FiniteDifferenceScoreMatching"
            )
        with recorded(twice=True):
            x, score = _leaf(model, x, t, cond)
            axes = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).reshape(-1, 1, *x.shape[1:])
            trace = sum((_curvature(score, x, axis.expand_as(x)) for axis in axes), start=x.new_zeros(len(x)))
            return mean_event(0.5 * score**2) + trace / len(axes)


@dataclasses.dataclass(frozen=True)
class SlicedScoreMatching(_Implicit):
    """Sliced score matching (2): one more backward pass per probe, in any dimension.

    Args:
        probes: number of vectors v, at least 1.
        distribution: of v: "rademacher" (signs; the smallest variance), "gaussian" or "sphere" (of radius sqrt(d)).
        variance_reduction: whether |s|^2 is taken instead of (v.s)^2.

    The other arguments are those of `SimulatedScoreMatching`.

    Raises:
        ValueError: for probes < 1 or an unknown distribution.
    """

    probes: int = 1
    distribution: Literal["rademacher", "gaussian", "sphere"] = "rademacher"
    variance_reduction: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_probes(self.probes, self.distribution)

    @property
    def _probes(self) -> int:
        return self.probes

    def _objective(self, model: ScoreModel, x: Tensor, t: Tensor, cond: Any, probes: tuple[Tensor, ...]) -> Tensor:
        with recorded(twice=True):
            x, score = _leaf(model, x, t, cond)
            vs = [_probe(z, self.distribution) for z in probes]
            slices = sum((_curvature(score, x, v) for v in vs), start=x.new_zeros(len(x)))
            if self.variance_reduction:
                return mean_event(0.5 * score**2) + slices / (len(vs) * x[0].numel())
            squares = sum((0.5 * sum_event(v * score) ** 2 for v in vs), start=slices)
            return squares / (len(vs) * x[0].numel())


@dataclasses.dataclass(frozen=True)
class FiniteDifferenceScoreMatching(_Implicit):
    """Finite-difference score matching (3): two evaluations of the score per probe and one ordinary backward pass.

    Args:
        step: e, the length of the difference per dimension, > 0, in units of the state. The error is of order e^2 and, in float32, rounding
            adds about 1e-7 |s|/e.
        probes: number of vectors v, at least 1.
        distribution: of v: "rademacher" (signs), "gaussian" or "sphere" (of radius sqrt(d)).

    The other arguments are those of `SimulatedScoreMatching`.

    Raises:
        ValueError: for a step that is not positive, probes < 1 or an unknown distribution.
    """

    step: float = 1e-2
    probes: int = 1
    distribution: Literal["rademacher", "gaussian", "sphere"] = "rademacher"

    def __post_init__(self) -> None:
        super().__post_init__()
        plain_floats(self)
        check_positive(step=self.step)
        _check_probes(self.probes, self.distribution)

    @property
    def _probes(self) -> int:
        return self.probes

    def _objective(self, model: ScoreModel, x: Tensor, t: Tensor, cond: Any, probes: tuple[Tensor, ...]) -> Tensor:
        losses = x.new_zeros(len(x))
        for z in probes:
            v = _probe(z, self.distribution)
            ahead, behind = (check_score(model.score(x + e * v, t, cond), x) for e in (self.step, -self.step))
            losses = losses + mean_event(0.125 * (ahead + behind) ** 2 + v * (ahead - behind) / (2 * self.step))
        return losses / len(probes)


def _leaf(model: ScoreModel, x: Tensor, t: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
    """States that a gradient can be taken at, and the score there."""
    x = x.detach().requires_grad_()
    return x, check_score(model.score(x, t, cond), x)


def _curvature(score: Tensor, x: Tensor, v: Tensor) -> Tensor:
    """v.J v, (b,)."""
    (vj,) = torch.autograd.grad(score, x, v, create_graph=True, materialize_grads=True)
    return sum_event(vj * v)


def _probe(z: Tensor, distribution: str) -> Tensor:
    """v with E[v v^T] = I from standard normal numbers z (b, *d)."""
    if distribution == "rademacher":
        return torch.where(z < 0, -1.0, 1.0).to(z)
    if distribution == "sphere":
        return z * (z[0].numel() / sum_event(z**2)).sqrt().reshape(-1, *[1] * (z.ndim - 1))
    return z


def _check_probes(probes: int, distribution: str) -> None:
    check_count(probes=probes)
    if distribution not in ("rademacher", "gaussian", "sphere"):
        raise ValueError(f"distribution must be 'rademacher', 'gaussian' or 'sphere', got {distribution!r}")
