"""Forward processes.

    dx = drift(x, t) dt + diffusion(t) dw,    t = 0 data, t = 1 noise                           (1)

If the drift is f(t) x the kernel is Gaussian, x_t | x_0 ~ N(alpha_t x_0, sigma_t^2 I), with

    f = d log alpha / dt,    g^2 = d sigma^2 / dt - 2 f sigma^2                                 (2)

and between two times s < t it is x_t | x_s ~ N(A x_s, Q I),

    A = alpha_t / alpha_s,    Q = sigma_t^2 - A^2 sigma_s^2                                     (3)

so that Bayes gives the bridge x_s | x_t, x_0 ~ N(m, c^2 I),

    m = A (sigma_s/sigma_t)^2 x_t + alpha_s (Q/sigma_t^2) x_0,    c^2 = Q sigma_s^2/sigma_t^2   (4)

Song et al. 2021 (arXiv 2011.13456); Ho et al. 2020 (2006.11239) for (4); Kingma et al. 2021 (2107.00630) for the log-SNR.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sde_diffusion.noise import Noise, make_noise
from sde_diffusion.shapes import Time, as_time, expand, sum_event

if TYPE_CHECKING:
    from sde_diffusion.sdes.reverse import ReverseSDE, Score


class Transition(NamedTuple):
    """x_t | x_s ~ N(scale x_s, variance I)."""

    scale: Tensor
    variance: Tensor


class Posterior(NamedTuple):
    """x_s | x_t, x_0 ~ N(x x_t + x0 x_0, variance I)."""

    x: Tensor
    x0: Tensor
    variance: Tensor


class SDE(abc.ABC):
    """A forward process (1) on times t_min..t_max, inside which every coefficient is finite."""

    t_min: float
    t_max: float

    @abc.abstractmethod
    def drift(self, x: Tensor, t: Time) -> Tensor:
        """The drift at states x (b, *d) and times t () or (b,)."""

    @abc.abstractmethod
    def diffusion(self, t: Time) -> Tensor:
        """The diffusion coefficient at times t, of the shape of t."""

    @property
    @abc.abstractmethod
    def prior_std(self) -> float:
        """Standard deviation of the Gaussian that stands for p_1."""

    def prior_sample(
        self,
        shape: Sequence[int],
        noise: Noise | None = None,
        *,
        generator: torch.Generator | None = None,
        seeds: Iterable[int] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draws from the prior N(0, prior_std^2 I), with `noise`, `generator` or `seeds` as the source of randomness."""
        draw = make_noise(noise, generator=generator, seeds=seeds)
        return self.prior_std * draw(torch.empty(tuple(shape), device=device, dtype=dtype))

    def prior_log_prob(self, x: Tensor) -> Tensor:
        """Log-density of the prior at x (b, *d), in nats, shape (b,)."""
        log_z = 0.5 * math.log(2 * math.pi * self.prior_std**2)
        return sum_event(-0.5 * (x / self.prior_std) ** 2 - log_z)

    def perturb(self, x0: Tensor, t: Time, eps: Tensor) -> Tensor:
        """x_t from data and standard normal numbers, where x_t | x_0 is Gaussian: an `AffineSDE` has it.

        Raises:
            TypeError: for any other process.
        """
        raise TypeError(
            f"{self} is not an AffineSDE and so has no Gaussian kernel x_t | x_0, which denoising score matching needs; take "
            "LastStepScoreMatching, SlicedScoreMatching or FiniteDifferenceScoreMatching, which simulate paths, and a ScoreNetwork"
        )

    def reverse(self, denoiser: Score, eta: float = 1.0, *, shape: Sequence[int] | None = None, cond: object | None = None) -> ReverseSDE:
        """The reverse-time SDE (eta = 1), the probability-flow ODE (eta = 0) or any process between with the same marginals.

            dx = (drift - (1 + eta^2)/2 g^2 score) dt + eta g dw                                Song et al. 2021, eqs 6 and 13

        The result can be given to `torchsde.sdeint` (times 1 - t increase) and, for eta = 0, to `scipy.integrate.solve_ivp`.

        Args:
            denoiser: what knows the score: `denoiser.score(x, t, cond)`.
            eta: 0 (ODE) to 1 (SDE) or larger.
            shape: shape (b, *d) of the batch where the integrator hands over flat states; b may be -1.
            cond: condition handed to the denoiser.
        """
        from sde_diffusion.sdes.reverse import ReverseSDE

        return ReverseSDE(self, denoiser, eta, shape=shape, cond=cond)


class AffineSDE(SDE):
    """A process with drift f(t) x: five formulas (alpha, sigma, f, g, t_of_log_snr), all else follows.

    Every formula takes a float or a tensor of times and computes in the dtype of the tensor (float64 for a float).
    """

    t_max: float = 1.0
    length: int | None = None
    """Number of steps, if the process is a chain; a sampler's default grid then has its nodes t = i/length."""

    @abc.abstractmethod
    def alpha(self, t: Time) -> Tensor:
        """Signal scale."""

    @abc.abstractmethod
    def sigma(self, t: Time) -> Tensor:
        """Noise scale."""

    @abc.abstractmethod
    def f(self, t: Time) -> Tensor:
        """Drift coefficient, d log alpha / dt."""

    @abc.abstractmethod
    def g(self, t: Time) -> Tensor:
        """Diffusion coefficient."""

    @abc.abstractmethod
    def t_of_log_snr(self, lam: Time) -> Tensor:
        """The time at which log(alpha/sigma) is `lam`."""

    @property
    def prior_std(self) -> float:
        return float(self.sigma(self.t_max))

    def log_snr(self, t: Time) -> Tensor:
        """log(alpha/sigma): half the logarithm of the signal-to-noise ratio."""
        return self.alpha(t).log() - self.sigma(t).log()

    def alpha_of_log_snr(self, lam: Time) -> Tensor:
        """The signal scale where log(alpha/sigma) is `lam`, in the dtype of lam; by way of t, in float64, unless a process knows better."""
        lam = as_time(lam)
        return self.alpha(self.t_of_log_snr(lam.double())).to(lam.dtype)

    def drift(self, x: Tensor, t: Time) -> Tensor:
        return expand(self.f(t), x) * x

    def diffusion(self, t: Time) -> Tensor:
        return self.g(t)

    def perturb(self, x0: Tensor, t: Time, eps: Tensor) -> Tensor:
        """x_t = alpha x_0 + sigma eps, for data x0 (b, *d), times t () or (b,) and standard normal eps (b, *d)."""
        t = as_time(t, x0)
        return expand(self.alpha(t), x0) * x0 + expand(self.sigma(t), x0) * eps

    def transition(self, s: Time, t: Time) -> Transition:
        """The forward kernel (3) from s to t >= s."""
        scale = self.alpha(t) / self.alpha(s)
        # Clamped: the difference of two equal variances can round to -1e-17, and its root is taken.
        return Transition(scale, (self.sigma(t) ** 2 - scale**2 * self.sigma(s) ** 2).clamp(min=0))

    def posterior(self, s: Time, t: Time) -> Posterior:
        """The bridge (4) at s <= t."""
        scale, variance = self.transition(s, t)
        ratio = (self.sigma(s) / self.sigma(t)) ** 2
        return Posterior(scale * ratio, self.alpha(s) * variance / self.sigma(t) ** 2, variance * ratio)

    def discretize(self, n: int) -> AffineSDE:
        """A chain of n steps with this process' marginals at t = 0, t_max/n, ..., t_max."""
        from sde_diffusion.sdes.chains import AffineChain

        t = torch.linspace(0, self.t_max, check_steps(n) + 1, dtype=torch.float64)
        return AffineChain(tuple(self.alpha(t).tolist()), tuple(self.sigma(t).tolist()))

    @staticmethod
    def from_coefficients(
        f: Callable[[Tensor], Tensor], g: Callable[[Tensor], Tensor], *, t_min: float = 1e-3, t_max: float = 1.0
    ) -> AffineSDE:
        """The process dx = f(t) x dt + g(t) dw for any two scalar functions; its kernel is integrated to 1e-10.

        Args:
            f: drift coefficient, a function of a float64 tensor of times.
            g: diffusion coefficient, likewise, not identically zero.
            t_min: where sampling stops, in (0, t_max).
            t_max: where sampling starts, in (t_min, 1].

        Raises:
            ValueError: if the integral does not converge or the kernel fails the check d var/dt = 2 f var + g^2.
        """
        from sde_diffusion.sdes.coefficients import CoefficientSDE

        return CoefficientSDE(f, g, t_min=t_min, t_max=t_max)


def check_steps(n: int) -> int:
    """Returns the number of steps of a chain, or raises ValueError if it is less than 2."""
    if n < 2:
        raise ValueError(f"a chain needs at least 2 steps, got n={n}")
    return n


def check_count(**values: int) -> None:
    """Raises ValueError naming the first value that is not a whole number of at least 1."""
    for name, value in values.items():
        if not (value >= 1 and value == int(value)):
            raise ValueError(f"{name} must be a whole number, at least 1, got {value}")


def check_positive(**values: float) -> None:
    """Raises ValueError naming the first value that is not a positive finite number."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number, got {value}")


def check_times(t_min: float, t_max: float, *, zero: bool = False, one: bool = True) -> None:
    """Raises ValueError unless 0 < t_min < t_max < 1, with `zero` and `one` for the ends that are allowed as well."""
    if not (t_min > 0 or (zero and t_min == 0)):
        raise ValueError(f"t_min must be {'at least' if zero else 'greater than'} 0, got {t_min}")
    if not (t_max < 1 or (one and t_max == 1)):
        raise ValueError(f"t_max must be {'at most' if one else 'less than'} 1, got {t_max}")
    check_less(t_min=t_min, t_max=t_max)


def check_less(**values: float) -> None:
    """Raises ValueError unless the two named values increase."""
    (low_name, low), (high_name, high) = values.items()
    if not low < high:
        raise ValueError(f"{low_name} must be less than {high_name}, got {low_name}={low} and {high_name}={high}; swap them?")
