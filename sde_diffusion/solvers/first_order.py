"""Solvers with one network call and one set of weights per step, for every affine SDE.

From t to s < t, with A, Q the forward transition s -> t, D = t - s and k = (1 + eta^2)/2 g^2 D/sigma_t^2,

    x_s = w_x x_t + w_0 x0_hat + c z                                                             (1)

    Euler-Maruyama       w_x = 1 - f D - k                       w_0 = k alpha_t                 c = eta g sqrt(D)            (2)
    reverse diffusion    w_x = 2 - A - K, K = (1+eta^2)/2 Q/sigma_t^2
                                                                 w_0 = K alpha_t                 c = eta sqrt(Q)              (3)
    ancestral            w_x = A sigma_s^2/sigma_t^2             w_0 = alpha_s Q/sigma_t^2       c = sqrt(Q) sigma_s/sigma_t  (4)
    DDIM                 w_x = sqrt(sigma_s^2 - c^2)/sigma_t     w_0 = alpha_s - alpha_t w_x     c = eta sqrt(Q) sigma_s/sigma_t  (5)
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.expressions import plain_floats
from sde_diffusion.noise import Noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.solvers.base import Move, Solver, Step
from sde_diffusion.solvers.tableau import Tableau
from sde_diffusion.solvers.variance import VARIANCES, ReconstructionError, check_variance, reverse_variance


class FirstOrder(Solver):
    """A solver that is three scalars (1) per step."""

    order: ClassVar[int] = 1
    default_steps: ClassVar[int] = 1000

    @abc.abstractmethod
    def weights(self, sde: AffineSDE, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(w_x, w_0, c) of (1) for steps from times t to s, (n,) each."""

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        x, x0, noise = self.weights(sde, t, s)
        return Tableau(t=t, x=x, p=x0[:, None], noise=noise, ends=s)


def check_eta(eta: float, *, most: float = float("inf")) -> None:
    """Raises ValueError unless 0 <= eta <= most."""
    if not (0 <= eta <= most and math.isfinite(eta)):
        raise ValueError(f"eta must be between 0 (ODE) and {'1 (SDE)' if most == 1 else 'infinity; 1 is the SDE'}, got {eta}")


@dataclasses.dataclass(frozen=True)
class EulerMaruyama(FirstOrder):
    """Euler-Maruyama on the reverse SDE, (2); with eta = 0 Euler on the probability-flow ODE.

    Args:
        eta: 0 (ODE) to 1 (SDE) or larger; the marginals are the same for all.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        plain_floats(self)
        check_eta(self.eta)

    def weights(self, sde: AffineSDE, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        D, g = t - s, sde.g(t)
        k = 0.5 * (1 + self.eta**2) * g**2 * D / sde.sigma(t) ** 2
        return 1 - sde.f(t) * D - k, k * sde.alpha(t), self.eta * g * D.sqrt()


@dataclasses.dataclass(frozen=True)
class ReverseDiffusion(FirstOrder):
    """Discretises the reverse process as the forward one is discretised, (3) (Song et al. 2021, appendix E).

    Args:
        eta: 0 (ODE) to 1 (SDE) or larger.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        plain_floats(self)
        check_eta(self.eta)

    def weights(self, sde: AffineSDE, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        A, Q = sde.transition(s, t)
        K = 0.5 * (1 + self.eta**2) * Q / sde.sigma(t) ** 2
        return 2 - A - K, K * sde.alpha(t), self.eta * Q.sqrt()


@dataclasses.dataclass(frozen=True)
class Ancestral(FirstOrder):
    """Draws from the Gaussian posterior p(x_s | x_t, x0_hat), (4): DDPM on a VP chain, SMLD on a VE ladder.

    Args:
        variance: c^2 in the steps that end where sigma > 0; in others it is 0.
            "posterior": Q sigma_s^2/sigma_t^2 (beta-tilde of Ho et al. 2020, exact for a single point);
            "forward": Q (beta, exact for unit-variance data);
            "analytic": the best for the model's `errors` (Bao et al. 2022, arXiv 2201.06503), exact for Gaussian data;
            "learned": between the first two, per element, as the network says (Nichol & Dhariwal 2021, arXiv 2102.09672).
        errors: the model's, for "analytic" only.

    Raises:
        ValueError: for another variance, or errors that are missing or superfluous; while sampling, if no variance has been learned.
    """

    variance: str = "posterior"
    errors: ReconstructionError | None = None

    def __post_init__(self) -> None:
        check_variance(self.variance, self.errors, (*VARIANCES, "learned"))
        if self.errors is not None and self.variance != "analytic":
            raise ValueError(f"errors are for variance='analytic', got them with {self.variance!r}; leave them out?")

    def weights(self, sde: AffineSDE, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.variance == "learned":
            raise ValueError(f"{self} has a variance per element of the state and no table; use variance='analytic'")
        x, x0, _ = sde.posterior(s, t)
        return x, x0, torch.where(sde.sigma(s) > 0, reverse_variance(sde, t, s, self.variance, self.errors), 0.0).sqrt()

    def solve(
        self, denoiser: Denoiser, x: Tensor, grid: Tensor, noise: Noise, cond: Any = None, corrector: Move | None = None
    ) -> Iterator[Step]:
        return (self._learned if self.variance == "learned" else super().solve)(denoiser, x, grid, noise, cond, corrector)

    @staticmethod
    def _learned(denoiser: Denoiser, x: Tensor, grid: Tensor, noise: Noise, cond: Any, corrector: Move | None) -> Iterator[Step]:
        sde, t, s, nfe = denoiser.sde, grid[:-1], grid[1:], 0
        w_x, w_0, low = sde.posterior(s, t)
        high = sde.transition(s, t).variance
        columns = (column.tolist() for column in (s, w_x, w_0, low.log(), high.log()))
        for i, (time, (end, a, b, log_low, log_high)) in enumerate(zip(t, zip(*columns, strict=True), strict=True), start=1):
            x0_hat, v = denoiser.with_variance(x, time, cond)
            x, nfe = a * x + b * x0_hat, nfe + 1
            if math.isfinite(log_low):
                x = x + torch.exp(0.5 * (log_low + (log_high - log_low) * v)) * noise(x)
            if corrector is not None:
                x, calls = corrector(x, end)
                nfe += calls
            yield Step(i, end, x, nfe)


@dataclasses.dataclass(frozen=True)
class DDIM(FirstOrder):
    """Keeps the noise that it sees and shrinks it, (5) (Song et al. 2020, arXiv 2010.02502).

    eta = 0 is the exponential Euler step of the probability-flow ODE (exact for a constant x0_hat); eta = 1 is `Ancestral("posterior")`.

    Args:
        eta: 0 (deterministic) to 1 (DDPM).
    """

    eta: float = 0.0
    default_steps: ClassVar[int] = 50

    def __post_init__(self) -> None:
        plain_floats(self)
        check_eta(self.eta, most=1)

    def weights(self, sde: AffineSDE, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sigma_t, sigma_s = sde.sigma(t), sde.sigma(s)
        c = self.eta * sde.transition(s, t).variance.sqrt() * sigma_s / sigma_t
        x = (sigma_s**2 - c**2).clamp(min=0).sqrt() / sigma_t
        return x, sde.alpha(s) - sde.alpha(t) * x, c
