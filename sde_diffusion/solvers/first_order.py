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
from typing import ClassVar

import torch
from torch import Tensor

from sde_diffusion.expressions import plain_floats
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.solvers.base import Solver
from sde_diffusion.solvers.tableau import Tableau


class FirstOrder(Solver):
    """A solver that is three scalars (1) per step."""

    order: ClassVar[int] = 1
    default_steps: ClassVar[int] = 1000

    @abc.abstractmethod
    def weights(self, sde: AffineSDE, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(w_x, w_0, c) of (1) for steps from times t to s, (n,) each."""

    def tableau(self, sde: AffineSDE, grid: Tensor) -> Tableau:
        t, s = grid[:-1], grid[1:]
        x, x0, noise = self.weights(sde, t, s)
        return Tableau(t=t, x=x, base=torch.zeros_like(t), x0=x0[:, None], noise=noise, ends=s)


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
        variance: "posterior", c^2 = Q sigma_s^2/sigma_t^2 (beta-tilde of Ho et al. 2020, exact for a single point), or "forward", c^2 = Q
            (beta, exact for unit-variance data). No noise is added in a step that ends where sigma = 0.

    Raises:
        ValueError: for another variance.
    """

    variance: str = "posterior"

    def __post_init__(self) -> None:
        if self.variance not in ("posterior", "forward"):
            raise ValueError(f"variance must be 'posterior' or 'forward', got {self.variance!r}")

    def weights(self, sde: AffineSDE, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, x0, posterior = sde.posterior(s, t)
        forward = torch.where(sde.sigma(s) > 0, sde.transition(s, t).variance, 0.0)
        return x, x0, (posterior if self.variance == "posterior" else forward).sqrt()


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
