"""The reverse process as an integral: what a solver of higher order interpolates.

With rho = sigma/alpha and lam = -log rho, every process between the flow (eta = 0) and the reverse SDE (eta = 1) is

    y = x/n,    dy = p dtau + dB                                                                 (1)

for a scale n, a clock tau, a prediction p that changes slowly, and a Brownian motion B of variance v:

    form       n               tau             p                        v
    x0         sigma rho^eta2  rho^-(1+eta2)   x0_hat                   rho^(-2 eta2)            (2)
    epsilon    alpha           (1+eta2) rho    (x - alpha x0_hat)/sigma -eta2 rho^2              (3)
    velocity   alpha + sigma   sigma/n         epsilon - x0_hat         0, eta = 0 only          (4)
    t          1               t               dx/dt                    0, eta = 0 only          (5)

eta2 = eta^2. (2) is DPM-Solver++'s (Lu et al. 2022, arXiv 2211.01095), (3) Karras et al.'s and DPM-Solver's (2206.00364, 2206.00927), (4)
the velocity of a rectified flow. A step from t to s is x_s = (n_s/n_t) x_t + n_s int p dtau + n_s sqrt(v_s - v_t) z.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import NamedTuple

import numpy
import torch
from torch import Tensor

from sde_diffusion.sdes import AffineSDE

# Gauss-Legendre on [0, 1]: 32 nodes integrate a polynomial times e^(3 z) to rounding, and a step of one e-fold of the SNR is a large one.
_X, _W = numpy.polynomial.legendre.leggauss(32)
_NODES, _WEIGHTS = torch.from_numpy((_X + 1) / 2), torch.from_numpy(_W / 2)


class Advance(NamedTuple):
    """A step of the process with p = 1: x_s = x x_t + p + noise z."""

    x: Tensor
    p: Tensor
    noise: Tensor


@dataclasses.dataclass(frozen=True)
class Form(abc.ABC):
    """One of (2)-(5) for a process.

    Args:
        sde: the process.
        eta: 0 (ODE) to 1 (SDE) or larger.
    """

    sde: AffineSDE
    eta: float = 0.0

    @abc.abstractmethod
    def prediction(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(p_x, p_x0) with p = p_x x + p_x0 x0_hat."""

    @abc.abstractmethod
    def tau(self, t: Tensor) -> Tensor:
        """The clock."""

    @abc.abstractmethod
    def time(self, tau: Tensor) -> Tensor:
        """The time t at which the clock shows tau."""

    @abc.abstractmethod
    def advance(self, t: Tensor, s: Tensor) -> Advance:
        """The step from t to s; where sigma_s = 0 too."""

    @abc.abstractmethod
    def density(self, lam: Tensor, s: Tensor) -> Tensor:
        """n_s dtau/dlam at log-SNR lam."""

    def rho(self, t: Tensor) -> Tensor:
        return self.sde.sigma(t) / self.sde.alpha(t)


class DataForm(Form):
    """(2)."""

    def prediction(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)

    def tau(self, t: Tensor) -> Tensor:
        return self.rho(t) ** -(1 + self.eta**2)

    def time(self, tau: Tensor) -> Tensor:
        return self.sde.t_of_log_snr(tau.log() / (1 + self.eta**2))

    def advance(self, t: Tensor, s: Tensor) -> Advance:
        ratio, eta2 = self.rho(s) / self.rho(t), self.eta**2
        x = self.sde.sigma(s) / self.sde.sigma(t) * ratio**eta2
        variance = -torch.expm1(2 * eta2 * ratio.log()) if eta2 else torch.zeros_like(t)
        return Advance(x, -self.sde.alpha(s) * torch.expm1((1 + eta2) * ratio.log()), self.sde.sigma(s) * variance.sqrt())

    def density(self, lam: Tensor, s: Tensor) -> Tensor:
        power = 1 + self.eta**2
        return self.sde.alpha(s) * power * torch.exp(power * (lam - self.sde.log_snr(s)))


class NoiseForm(Form):
    """(3)."""

    def prediction(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 / self.sde.sigma(t), -1 / self.rho(t)

    def tau(self, t: Tensor) -> Tensor:
        return (1 + self.eta**2) * self.rho(t)

    def time(self, tau: Tensor) -> Tensor:
        return self.sde.t_of_log_snr(-(tau / (1 + self.eta**2)).log())

    def advance(self, t: Tensor, s: Tensor) -> Advance:
        alpha_s, rho_t, rho_s = self.sde.alpha(s), self.rho(t), self.rho(s)
        noise = alpha_s * self.eta * (rho_t**2 - rho_s**2).clamp(min=0).sqrt()
        return Advance(alpha_s / self.sde.alpha(t), alpha_s * (1 + self.eta**2) * (rho_s - rho_t), noise)

    def density(self, lam: Tensor, s: Tensor) -> Tensor:
        return -self.sde.alpha(s) * (1 + self.eta**2) * torch.exp(-lam)


class VelocityForm(Form):
    """(4)."""

    def prediction(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 / self.sde.sigma(t), -1 / self.rho(t) - 1

    def tau(self, t: Tensor) -> Tensor:
        rho = self.rho(t)
        return rho / (1 + rho)

    def time(self, tau: Tensor) -> Tensor:
        return self.sde.t_of_log_snr(-(tau / (1 - tau)).log())

    def advance(self, t: Tensor, s: Tensor) -> Advance:
        n_t, n_s = (self.sde.alpha(u) + self.sde.sigma(u) for u in (t, s))
        return Advance(n_s / n_t, n_s * (self.tau(s) - self.tau(t)), torch.zeros_like(t))

    def density(self, lam: Tensor, s: Tensor) -> Tensor:
        rho = torch.exp(-lam)
        return -(self.sde.alpha(s) + self.sde.sigma(s)) * rho / (1 + rho) ** 2


class TimeForm(Form):
    """(5)."""

    def prediction(self, t: Tensor) -> tuple[Tensor, Tensor]:
        k = 0.5 * (self.sde.g(t) / self.sde.sigma(t)) ** 2
        return self.sde.f(t) + k, -k * self.sde.alpha(t)

    def tau(self, t: Tensor) -> Tensor:
        return t

    def time(self, tau: Tensor) -> Tensor:
        return tau

    def advance(self, t: Tensor, s: Tensor) -> Advance:
        return Advance(torch.ones_like(t), s - t, torch.zeros_like(t))

    def density(self, lam: Tensor, s: Tensor) -> Tensor:
        t = self.sde.t_of_log_snr(lam)
        return -2 * (self.sde.sigma(t) / self.sde.g(t)) ** 2


FORMS: dict[str, type[Form]] = {"x0": DataForm, "epsilon": NoiseForm, "velocity": VelocityForm, "t": TimeForm}


def check_form(form: str, *allowed: str, eta: float = 0.0) -> None:
    """Raises ValueError unless `form` is one of `allowed` and has a process with this eta."""
    if form not in allowed:
        raise ValueError(f"form must be {' or '.join(map(repr, allowed))}, got {form!r}")
    if eta and form not in ("x0", "epsilon"):
        raise ValueError(f"form {form!r} is that of a deterministic solver, got eta={eta}; use form='x0' or eta=0")


def check_order(order: int, most: int, least: int = 1) -> None:
    """Raises ValueError unless least <= order <= most."""
    if order != int(order) or not least <= order <= most:
        raise ValueError(f"order must be {', '.join(map(str, range(least, most)))} or {most}, got {order}")


def position(form: Form, t: Tensor, variable: str) -> Tensor:
    """What p is interpolated in: the clock "tau", "log_snr", "t", or "index", the number of the call."""
    if variable == "index":
        return torch.arange(len(t), dtype=torch.float64)
    if variable == "t":
        return t
    return form.tau(t) if variable == "tau" else form.sde.log_snr(t)


def moments(form: Form, t: Tensor, s: Tensor, count: int, variable: str) -> Tensor:
    """n_s int z^k dtau over the steps from t to s, k < count, where z runs from 0 at t to 1 at s in `variable`; (n, count)."""
    powers = torch.arange(count, dtype=torch.float64)
    if variable in ("tau", "index"):
        return form.advance(t, s).p[:, None] / (powers + 1)
    z = _NODES.expand(len(t), -1)
    if variable == "t":
        u = t[:, None] + (s - t)[:, None] * z
        rate = -0.5 * (form.sde.g(u) / form.sde.sigma(u)) ** 2  # dlam/dt
        density = form.density(form.sde.log_snr(u), s[:, None]) * rate * (s - t)[:, None] * _WEIGHTS
    else:
        start, end = form.sde.log_snr(t)[:, None], form.sde.log_snr(s)[:, None]
        density = form.density(start + (end - start) * z, s[:, None]) * (end - start) * _WEIGHTS
    return (density[..., None] * z[..., None] ** powers).sum(1)
