"""Score matching on simulated states, for processes whose drift is not affine.

Without a kernel x_t | x_0 there is neither a way to draw x_t at once nor a known conditional score. But paths can be simulated, and the
law of their ends has a score, of which every loss here is an estimate up to a constant: with d dimensions and weight lambda(t),

    J(s) = lambda/d E[ |s(x_t)|^2/2 + div s(x_t) ] = lambda/(2d) E|s - nabla log p_t|^2 - lambda/(2d) E|nabla log p_t|^2        (1)

(Hyvarinen 2005), so that N(0, v) data have the smallest value -lambda/(2v). Each sample goes to a time of its own by n steps of length
t/n. Of these the last is Gaussian,

    x_t = x_{t-h} + f h + g sqrt(h) z,    nabla log p(x_t | x_{t-h}) = -(x_t - x_{t-h} - f h)/(g^2 h) = -z/(g sqrt(h))           (2)

and E[(2) | x_t] is the score of the law of the path's end, whatever h (Vincent 2011): denoising score matching on the last step,

    J = lambda/d E[ |s(x_t)|^2/2 + s(x_t).z/(g sqrt(h)) ].                                                                      (3)

Its variance is of order 1/(g^2 h). With z and -z from the same x_{t-h} the large terms cancel, and for h -> 0 sliced score matching is
left: (s(x + g sqrt(h) z) - s(x - g sqrt(h) z)).z/(2 g sqrt(h)) -> z.J z, J the Jacobian of s.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

from sde_diffusion.denoisers.score_network import ScoreModel, check_score
from sde_diffusion.losses.base import DrawnLoss
from sde_diffusion.losses.times import uniforms
from sde_diffusion.noise import Noise
from sde_diffusion.sdes import SDE
from sde_diffusion.sdes.base import check_count
from sde_diffusion.sdes.simulation import euler_maruyama
from sde_diffusion.shapes import expand, mean_event


@dataclasses.dataclass(frozen=True)
class SimulatedScoreMatching(DrawnLoss[ScoreModel]):
    """The loss (1) of a score at uniform times, estimated as final subclasses say.

    Args:
        steps: number of steps of each path, at least 1.
        weighting: lambda(t), "likelihood": g^2, whose mean bounds the likelihood (Song et al. 2021, arXiv 2101.09258), or "uniform": 1.
        stratified: whether the times of a batch are spread evenly, u_i = u + i/b mod 1.

    When called, `eps` is the noise of each path's last step.

    Raises:
        ValueError: for steps < 1 or an unknown weighting; when called, for times outside [t_min, t_max] of the process or of another
            length than x0, and for a score of another shape than the states.
    """

    steps: int = 100
    weighting: Literal["likelihood", "uniform"] = "likelihood"
    stratified: bool = True

    def __post_init__(self) -> None:
        check_count(steps=self.steps)
        if self.weighting not in ("likelihood", "uniform"):
            raise ValueError(f"weighting must be 'likelihood' (g^2) or 'uniform' (1), got {self.weighting!r}")

    def loss_at(self, denoiser: ScoreModel, x0: Tensor, t: Tensor, eps: Tensor | None, cond: Any, draw: Noise) -> Tensor:
        # One draw for all steps and probes: a source without memory would repeat itself at every step.
        path, probes = draw(x0.new_empty(len(x0), self.steps + self._probes, *x0.shape[1:])).split([self.steps, self._probes], dim=1)
        last = path[:, -1] if eps is None else eps
        loss = self._loss(denoiser, x0, t, cond, (*path[:, :-1].unbind(1), last), probes.unbind(1))
        return loss if self.weighting == "uniform" else denoiser.sde.diffusion(t).to(loss) ** 2 * loss

    def draw_times(self, denoiser: ScoreModel, x0: Tensor, noise: Noise) -> Tensor:
        """One time per sample, uniform on [t_min, t_max] of the process, float64 (b,)."""
        low, high = self.times_of(denoiser.sde)
        return low + uniforms(x0, noise, stratified=self.stratified) * (high - low)

    @property
    def _probes(self) -> int:
        """How many draws of the shape of x0 the estimate needs beside the path's."""
        return 0

    @abc.abstractmethod
    def _loss(self, model: ScoreModel, x0: Tensor, t: Tensor, cond: Any, path: tuple[Tensor, ...], probes: tuple[Tensor, ...]) -> Tensor:
        """The estimate of (1) without its weight, (b,)."""


@dataclasses.dataclass(frozen=True)
class LastStepScoreMatching(SimulatedScoreMatching):
    """Denoising score matching (3) on the last step of a simulated path: first derivatives of the score are not needed.

    Args:
        antithetic: whether the path's last step is taken with z and -z, which costs a second evaluation of the score and makes the variance
            bounded for h -> 0.

    The other arguments are those of `SimulatedScoreMatching`. Where the diffusion is 0 at the time of the last step there is no score.
    """

    antithetic: bool = True

    def _loss(self, model: ScoreModel, x0: Tensor, t: Tensor, cond: Any, path: tuple[Tensor, ...], probes: tuple[Tensor, ...]) -> Tensor:
        h = t / self.steps
        if not (h > 0).all():
            raise ValueError(f"the last step of a path to t=0 has no length; give {model.sde} a t_min > 0, or use SlicedScoreMatching")
        x, last = states(model.sde, x0, h, path[:-1]), t - h
        mean = x + model.sde.drift(x, last) * expand(h, x)
        std = expand(model.sde.diffusion(last) * h.sqrt(), x)
        losses = []
        for z in (path[-1], -path[-1]) if self.antithetic else path[-1:]:
            x = mean + std * z
            score = check_score(model.score(x, t, cond), x)
            losses.append(mean_event(0.5 * score**2 + score * z / std))
        return sum(losses[1:], start=losses[0]) / len(losses)


@torch.no_grad()
def states(sde: SDE, x0: Tensor, h: Tensor, path: tuple[Tensor, ...]) -> Tensor:
    """Where paths from x0 at time 0 end after len(path) steps of length h, () or (b,)."""
    return [x0, *euler_maruyama(sde, x0, torch.zeros_like(h), h, path)][-1]
