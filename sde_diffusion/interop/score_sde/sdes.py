"""The SDE objects of score_sde_pytorch's `sde_lib.py`, each a thin layer over one of ours (Song et al. 2021, arXiv 2011.13456).

    theirs                       ours, as `sde.ours` and `sde.chain`
    marginal_prob(x, t)          alpha x, sigma
    sde(x, t)                    f x, g
    discretize(x, t)             (A - 1) x, sqrt(Q) with the transition A, Q of one step of the chain (VP, VE); f x/N, g/sqrt(N) (others)
    prior_sampling, prior_logp   prior_sample, prior_log_prob
    reverse(score_fn)            sde: f x - g^2 score, g; the flow: f x - g^2/2 score, 0; discretize likewise

Times t are (b,) in [0, 1], T is 1, and step i = floor(t (N - 1)) of the chain leads from its node i/N to (i + 1)/N. Unlike the reference:
data may have any number of dimensions; sigma keeps its digits at small t, where 1 - exp(...) in float32 loses 4 of them; t = i/(N - 1)
is step i even where float32 makes t (N - 1) a little less than i; the flow's diffusion is a tensor of zeros (there the number 0.0, which
its own Euler-Maruyama predictor cannot index); and sub-VP has `discrete_betas` and `alphas`, which its Langevin correctors miss there.

`prior_sampling` draws from torch's global generator, as a script for the reference expects, unless it is given `generator=`.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from sde_diffusion import sdes
from sde_diffusion.denoisers import Conditioning, Epsilon, Parameterization, PlainScore, SigmaLabel, TimeLabel
from sde_diffusion.interop.score_sde.base import SDE, noise_of
from sde_diffusion.sdes import AffineSDE, DDPMChain, NCSNLadder, geometric_sigmas, linear_betas
from sde_diffusion.sdes.base import Transition
from sde_diffusion.shapes import expand


class AffineScoreSDE(SDE):
    """What VPSDE, subVPSDE and VESDE share: every formula is that of `ours`."""

    @property
    @abc.abstractmethod
    def ours(self) -> AffineSDE:
        """The same process as an object of this package."""

    @abc.abstractmethod
    def trained(self, continuous: bool) -> tuple[AffineSDE, Parameterization, Conditioning]:
        """How a model of this process is read: the process, what it predicts, and what it is told of the noise."""

    @property
    def T(self) -> float:  # noqa: N802
        return 1

    def sde(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.ours.drift(x, t), self.ours.diffusion(t)

    def marginal_prob(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return expand(self.ours.alpha(t), x) * x, self.ours.sigma(t)

    def prior_sampling(self, shape: Sequence[int], *, generator: torch.Generator | None = None) -> Tensor:
        """Draws from the prior, of the given shape, on the CPU, with `generator` or, if it is None, torch's global one."""
        return self.ours.prior_sample(shape, noise_of(generator), dtype=torch.get_default_dtype())

    def prior_logp(self, z: Tensor) -> Tensor:
        return self.ours.prior_log_prob(z)


class _Chained(AffineScoreSDE):
    """A process that is discretised as the chain it was made of."""

    ancestral: ClassVar[str]
    """The variance of `Ancestral` that the reference's ancestral predictor has: "forward" or "posterior"."""

    @property
    @abc.abstractmethod
    def chain(self) -> AffineSDE:
        """DDPM's chain or NCSN's ladder of N steps, as an object of this package."""

    def nodes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The chain's times, in float64, between which the step at t (b,) leads: s < t."""
        i = self.step(t).double()
        return i / self.N, (i + 1) / self.N

    def transition(self, t: Tensor) -> Transition:
        """The chain's transition from s to t."""
        return self.chain.transition(*self.nodes(t))

    def discretize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        A, Q = self.transition(t)
        return expand(A - 1, x) * x, Q.sqrt().to(t.dtype)


class _LinearBetas(AffineScoreSDE):
    def __init__(self, beta_min: float = 0.1, beta_max: float = 20, N: int = 1000) -> None:
        super().__init__(N)
        self.beta_0, self.beta_1 = beta_min, beta_max
        self._betas = self.discrete_betas = _tensor(linear_betas(N, beta_min / N, beta_max / N))
        self.alphas = 1 - self.discrete_betas
        _ = self.ours  # which checks the numbers

    def label_and_weight(self, x: Tensor, t: Tensor, continuous: bool) -> tuple[Tensor, Tensor]:
        return t * 999, -1 / self.marginal_prob(torch.zeros_like(x), t)[1]


class VPSDE(_LinearBetas, _Chained):
    """The variance-preserving process; `ours` is `sde_diffusion.VPSDE`, `chain` DDPM's with `discrete_betas`.

    Args:
        beta_min: beta at t = 0, in [0, beta_max]; attribute `beta_0`.
        beta_max: beta at t = 1; attribute `beta_1`.
        N: number of steps; what needs the chain needs N > beta_max.

    Raises:
        ValueError: for numbers out of range.
    """

    ancestral = "forward"

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20, N: int = 1000) -> None:
        super().__init__(beta_min, beta_max, N)
        products = torch.cumprod(1 - torch.tensor(linear_betas(N, beta_min / N, beta_max / N), dtype=torch.float64), 0)
        self.alphas_cumprod, self.sqrt_alphas_cumprod = _tensor(products), _tensor(products.sqrt())
        self.sqrt_1m_alphas_cumprod = _tensor((1 - products).sqrt())

    @property
    def ours(self) -> sdes.VPSDE:
        return sdes.VPSDE(self.beta_0, self.beta_1)

    @property
    def chain(self) -> DDPMChain:
        own = self.discrete_betas is not self._betas  # a schedule that a script has put in its place
        return DDPMChain(tuple(self.discrete_betas.tolist())) if own else _vp_chain(self.ours, self.N)

    def trained(self, continuous: bool) -> tuple[AffineSDE, Parameterization, Conditioning]:
        return (self.ours, Epsilon(), TimeLabel(999.0)) if continuous else (self.chain, Epsilon(), TimeLabel(self.N, -1))

    def label_and_weight(self, x: Tensor, t: Tensor, continuous: bool) -> tuple[Tensor, Tensor]:
        if continuous:
            return super().label_and_weight(x, t, continuous)
        return t * (self.N - 1), (-1 / self.chain.sigma(self.nodes(t)[1])).to(t.dtype)


class subVPSDE(_LinearBetas):  # noqa: N801
    """The sub-variance-preserving process; `ours` is `sde_diffusion.SubVPSDE`.

    Args:
        beta_min: beta at t = 0, in [0, beta_max]; attribute `beta_0`.
        beta_max: beta at t = 1; attribute `beta_1`.
        N: number of steps.

    Raises:
        ValueError: for numbers out of range.
    """

    @property
    def ours(self) -> sdes.SubVPSDE:
        return sdes.SubVPSDE(self.beta_0, self.beta_1)

    def trained(self, continuous: bool) -> tuple[AffineSDE, Parameterization, Conditioning]:
        return self.ours, Epsilon(), TimeLabel(999.0)


class VESDE(_Chained):
    """The variance-exploding process; `ours` is `sde_diffusion.VESDE`, `chain` NCSN's ladder of `discrete_sigmas`.

    Args:
        sigma_min: noise at t = 0, > 0.
        sigma_max: noise at t = 1, > sigma_min.
        N: number of steps.

    Raises:
        ValueError: for numbers out of range.
    """

    ancestral = "posterior"

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50, N: int = 1000) -> None:
        super().__init__(N)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        _ = self.ours
        self._sigmas = self.discrete_sigmas = _tensor(geometric_sigmas(N, sigma_min, sigma_max))

    @property
    def ours(self) -> sdes.VESDE:
        return sdes.VESDE(self.sigma_min, self.sigma_max)

    @property
    def chain(self) -> NCSNLadder:
        own = self.discrete_sigmas is not self._sigmas
        return NCSNLadder(tuple(self.discrete_sigmas.tolist())) if own else _ve_chain(self.ours, self.N)

    def trained(self, continuous: bool) -> tuple[AffineSDE, Parameterization, Conditioning]:
        labels = TimeLabel(-self.N, self.N, whole=True)
        return (self.ours, PlainScore(), SigmaLabel()) if continuous else (self.chain, PlainScore(), labels)

    def label_and_weight(self, x: Tensor, t: Tensor, continuous: bool) -> tuple[Tensor, Tensor]:
        labels = self.marginal_prob(torch.zeros_like(x), t)[1] if continuous else torch.round((self.T - t) * (self.N - 1)).long()
        return labels, torch.ones_like(t)


@functools.lru_cache(maxsize=8)  # a chain of 1000 nodes costs a millisecond, and a sampler asks at every step
def _vp_chain(sde: sdes.VPSDE, n: int) -> DDPMChain:
    return sde.discretize(n)


@functools.lru_cache(maxsize=8)
def _ve_chain(sde: sdes.VESDE, n: int) -> NCSNLadder:
    return sde.discretize(n)


def _tensor(values: Sequence[float] | Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64).to(torch.get_default_dtype())
