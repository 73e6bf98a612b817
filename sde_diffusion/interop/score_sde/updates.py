"""Predictors and correctors as score_sde_pytorch has them, classes with `update_fn(x, t) -> (x, x_mean)` (its `sampling.py`).

    EulerMaruyamaPredictor        x_mean = x - drift/N                c = g/sqrt(N)        of the reverse SDE or flow
    ReverseDiffusionPredictor     x_mean = x - f                      c = G                f, G = rsde.discretize(x, t)
    AncestralSamplingPredictor    x_mean = (x + Q score)/A            c = sqrt(Q) (VP), sqrt(Q) sigma_s/sigma_t (VE)
    LangevinCorrector             x_mean = x + e score                c = sqrt(2 e)        e = 2 (1 - beta_i) (snr |z|/|score|)^2
    AnnealedLangevinDynamics      the same                                                 e = 2 (1 - beta_i) (snr sigma)^2

and x = x_mean + c z; lengths are means over the batch; 1 - beta_i is 1 for VE. These are the tables of `EulerMaruyama`,
`ReverseDiffusion`, `Ancestral("forward")` and `Ancestral("posterior")` and, but for 1 - beta_i, the moves of `Langevin`.

Unlike the reference: the flow works with every predictor but the ancestral one, which says why not; correctors work on sub-VP and on
processes of your own; z comes from `self.noise(x)`, which is torch's global generator unless the attribute `generator` is set.
"""

from __future__ import annotations

import abc
from typing import Any, TypeVar

import torch
from torch import Tensor

from sde_diffusion.interop.score_sde.base import SDE, ScoreFn, noise_of
from sde_diffusion.interop.score_sde.sdes import VESDE, VPSDE
from sde_diffusion.sdes.base import check_count
from sde_diffusion.shapes import expand
from sde_diffusion.solvers.langevin import langevin_move

Update = tuple[Tensor, Tensor]
"""The new state and the same without its noise, (b, *d) each."""


class _Updater(abc.ABC):
    generator: torch.Generator | None = None

    def noise(self, x: Tensor) -> Tensor:
        """Standard normal numbers like x, from `generator` or, if it is None, from torch's global one."""
        return noise_of(self.generator)(x)

    @abc.abstractmethod
    def update_fn(self, x: Tensor, t: Tensor) -> Update:
        """One update of states x (b, *d) at times t (b,)."""


class Predictor(_Updater):
    """Moves from a time to the next; a class of your own defines `update_fn`.

    Args:
        sde: the process.
        score_fn: its score.
        probability_flow: whether to follow the flow, not the reverse SDE.
    """

    def __init__(self, sde: SDE, score_fn: ScoreFn, probability_flow: bool = False) -> None:
        self.sde, self.score_fn = sde, score_fn
        self.rsde = sde.reverse(score_fn, probability_flow)


class Corrector(_Updater):
    """Moves at one time; a class of your own defines `update_fn`.

    Args:
        sde: the process.
        score_fn: its score.
        snr: ratio of the lengths of the score's move and the noise's, > 0.
        n_steps: moves per update, at least 1.

    Raises:
        ValueError: if n_steps is not such a number.
    """

    def __init__(self, sde: SDE, score_fn: ScoreFn, snr: float, n_steps: int) -> None:
        check_count(n_steps=n_steps)
        self.sde, self.score_fn, self.snr, self.n_steps = sde, score_fn, snr, n_steps


_Class = TypeVar("_Class", bound=type[_Updater])
_PREDICTORS: dict[str, type[Predictor]] = {}
_CORRECTORS: dict[str, type[Corrector]] = {}


def _register(known: dict[str, Any], cls: Any, name: str | None) -> Any:
    if cls is None:
        return lambda cls: _register(known, cls, name)
    word = cls.__name__ if name is None else name
    if word in known:
        raise ValueError(f"{word!r} is registered already, for {known[word].__name__}; pass another name=")
    known[word] = cls
    return cls


def _get(known: dict[str, _Class], name: str, kind: str) -> _Class:
    if name not in known:
        raise ValueError(f"there is no {kind} {name!r}; known are {', '.join(known)}; write one and decorate it with @register_{kind}")
    return known[name]


def register_predictor(cls: Any = None, *, name: str | None = None) -> Any:
    """A decorator, `@register_predictor` or `@register_predictor(name="mine")`, after which `get_predictor` knows the class.

    Raises:
        ValueError: if the name is taken.
    """
    return _register(_PREDICTORS, cls, name)


def register_corrector(cls: Any = None, *, name: str | None = None) -> Any:
    """A decorator, `@register_corrector` or `@register_corrector(name="mine")`, after which `get_corrector` knows the class.

    Raises:
        ValueError: if the name is taken.
    """
    return _register(_CORRECTORS, cls, name)


def get_predictor(name: str) -> type[Predictor]:
    """The predictor class registered under a name.

    Raises:
        ValueError: if there is none.
    """
    return _get(_PREDICTORS, name, "predictor")


def get_corrector(name: str) -> type[Corrector]:
    """The corrector class registered under a name.

    Raises:
        ValueError: if there is none.
    """
    return _get(_CORRECTORS, name, "corrector")


@register_predictor(name="euler_maruyama")
class EulerMaruyamaPredictor(Predictor):
    """Euler-Maruyama's step of length 1/N; `get_pc_sampler` steps from each time to the next, and in the end to 0."""

    def update_fn(self, x: Tensor, t: Tensor) -> Update:
        drift, diffusion = self.rsde.sde(x, t)
        x_mean = x - drift / self.rsde.N
        return x_mean + expand(diffusion, x) / self.rsde.N**0.5 * self.noise(x), x_mean


@register_predictor(name="reverse_diffusion")
class ReverseDiffusionPredictor(Predictor):
    """Discretises the reverse process as the forward one is discretised."""

    def update_fn(self, x: Tensor, t: Tensor) -> Update:
        f, G = self.rsde.discretize(x, t)
        x_mean = x - f
        return x_mean + expand(G, x) * self.noise(x), x_mean


@register_predictor(name="ancestral_sampling")
class AncestralSamplingPredictor(Predictor):
    """DDPM's sampler on VP, NCSN's chain of posteriors on VE.

    Raises:
        NotImplementedError: for other processes, which are not discretised as a chain.
        ValueError: for the probability flow, which has no noise to draw.
    """

    def __init__(self, sde: SDE, score_fn: ScoreFn, probability_flow: bool = False) -> None:
        super().__init__(sde, score_fn, probability_flow)
        if probability_flow:
            raise ValueError(
                "ancestral sampling draws noise and cannot follow the flow; take reverse_diffusion with probability_flow=True, "
                "or our DDIM(), its limit without noise, by sample(denoiser(sde, model), DDIM())"
            )
        if not isinstance(sde, VPSDE | VESDE):
            cure = "take reverse_diffusion, or our Ancestral() by sample(denoiser(sde, model), Ancestral())"
            raise NotImplementedError(f"ancestral sampling is for VPSDE and VESDE, got {type(sde).__name__}; {cure}")
        self.chained = sde

    def update_fn(self, x: Tensor, t: Tensor) -> Update:
        s, r = self.chained.nodes(t)
        A, Q = self.chained.chain.transition(s, r)
        variance = Q if self.chained.ancestral == "forward" else self.chained.chain.posterior(s, r).variance
        x_mean = (x + expand(Q, x) * self.score_fn(x, t)) / expand(A, x)
        return x_mean + expand(variance.sqrt(), x) * self.noise(x), x_mean


@register_predictor(name="none")
class NonePredictor(Predictor):
    """Does nothing."""

    def __init__(self, sde: SDE, score_fn: ScoreFn, probability_flow: bool = False) -> None:
        pass

    def update_fn(self, x: Tensor, t: Tensor) -> Update:
        return x, x


class _LangevinMoves(Corrector):
    @abc.abstractmethod
    def length(self, x: Tensor, t: Tensor, score: Tensor, z: Tensor) -> Tensor:
        """(b,) or (), by which snr is multiplied: |z|/|score| in some mean."""

    def update_fn(self, x: Tensor, t: Tensor) -> Update:
        alpha = torch.ones_like(t) if self.sde.alphas is None else self.sde.alphas.to(t)[self.sde.step(t)]
        x_mean = x
        for _ in range(self.n_steps):
            score, z = self.score_fn(x, t), self.noise(x)
            step = expand(2 * (self.snr * self.length(x, t, score, z)) ** 2 * alpha, x)
            x_mean, x = x + step * score, langevin_move(x, score, z, step)
        return x, x_mean


@register_corrector(name="langevin")
class LangevinCorrector(_LangevinMoves):
    """Langevin moves whose step follows from the lengths of score and noise, averaged over the batch."""

    def length(self, x: Tensor, t: Tensor, score: Tensor, z: Tensor) -> Tensor:
        return z.flatten(1).norm(dim=1).mean() / score.flatten(1).norm(dim=1).mean()


@register_corrector(name="ald")
class AnnealedLangevinDynamics(_LangevinMoves):
    """Langevin moves whose step follows from sigma, as in NCSN."""

    def length(self, x: Tensor, t: Tensor, score: Tensor, z: Tensor) -> Tensor:
        return self.sde.marginal_prob(x, t)[1]


@register_corrector(name="none")
class NoneCorrector(Corrector):
    """Does nothing."""

    def __init__(self, sde: SDE, score_fn: ScoreFn, snr: float, n_steps: int) -> None:
        pass

    def update_fn(self, x: Tensor, t: Tensor) -> Update:
        return x, x
