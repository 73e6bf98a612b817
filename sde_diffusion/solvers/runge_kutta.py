"""Runge-Kutta solvers: one step, several calls.

For dy = p dtau + dB (forms.py) the stages at times t = u_0, u_1, ..., u_m = s are

    Y_i = y + sum_j<i a_ij p_j + B(u_i) - B(u_0),    p_j = p(Y_j, u_j),    x_s = n_s Y_m         (1)

with Butcher's a_ij times the step in tau, or, where p is taken for linear in lam, exponential weights. Between two stages

    Y_i+1 = Y_i + sum_j (a_i+1,j - a_ij) p_j + sqrt(v_i+1 - v_i) z                               (2)

so a stage is a row, and the stages of a stochastic solver share their Brownian path.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from sde_diffusion.expressions import plain_floats
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.solvers.base import Solver
from sde_diffusion.solvers.first_order import check_eta
from sde_diffusion.solvers.forms import FORMS, Form, check_form, check_order, moments
from sde_diffusion.solvers.grids import Grid, karras
from sde_diffusion.solvers.tableau import Tableau


class RungeKutta(Solver):
    """A solver that is (1); a step that ends where sigma = 0 is an Euler step."""

    form: str
    eta: float
    default_steps: ClassVar[int] = 18
    default_grid: ClassVar[Grid] = karras

    @property
    def weak_order(self) -> int:
        """Stages that share the increments of their Brownian path, but not its integrals, reach 2."""
        return min(self.order, 2) if self.eta else self.order

    @abc.abstractmethod
    def stages(self, form: Form, t: Tensor, s: Tensor) -> tuple[Sequence[Tensor], Sequence[Sequence[Tensor]]]:
        """Times u_0..u_m, (n,) each, and weights n_s a_ij: m rows of one tensor (n,) for each prediction made before."""

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        form = FORMS[self.form](sde, self.eta)
        noisy = int((sde.sigma(s) > 0).sum())
        tables = []
        if noisy:
            tables.append(_rows(form, s[:noisy], *self.stages(form, t[:noisy], s[:noisy])))
        if noisy < len(s):
            x, p, noise = form.advance(t[noisy:], s[noisy:])
            p_x, p_x0 = form.prediction(t[noisy:])
            tables.append(Tableau(t=t[noisy:], x=x, p=p[:, None], noise=noise, ends=s[noisy:], p_x=p_x, p_x0=p_x0))
        return Tableau.concatenate(tables)


def _rows(form: Form, s: Tensor, times: Sequence[Tensor], weights: Sequence[Sequence[Tensor]]) -> Tableau:
    """(2) as a table: m rows per step."""
    m, zero, tables = len(weights), torch.zeros_like(s), []
    before: Sequence[Tensor] = ()
    for i, (u, v, a) in enumerate(zip(times[:-1], times[1:], weights, strict=True)):
        scale = form.advance(s, v).x  # n_v/n_s
        changes = [scale * (new - old) for new, old in zip(a, [*before, zero], strict=True)]
        x, _, noise = form.advance(u, v)
        p_x, p_x0 = form.prediction(u)
        p = torch.stack([*changes[::-1], *[zero] * (m - 1 - i)], 1)
        ends = s if i == m - 1 else torch.full_like(s, torch.nan)
        tables.append(Tableau(t=u, x=x, p=p, noise=noise, ends=ends, p_x=p_x, p_x0=p_x0))
        before = a
    return Tableau.interleave(tables)


@dataclasses.dataclass(frozen=True)
class ClassicalRungeKutta(RungeKutta):
    """A Runge-Kutta solver in any form.

    Args:
        form: what is integrated: "epsilon" (x/alpha in sigma/alpha), "x0", "velocity" or "t".
        eta: 0 (ODE) to 1 (SDE) or larger, for the first two forms.
    """

    form: str = "epsilon"
    eta: float = 0.0

    def __post_init__(self) -> None:
        plain_floats(self)
        check_eta(self.eta)
        check_form(self.form, *FORMS, eta=self.eta)


class Euler(ClassicalRungeKutta):
    """Euler's method: the "euler" of Karras et al. 2022 in the form "epsilon", where it is `DDIM()`; "x0" is DDIM as well.

    "t" is `EulerMaruyama(eta=0)`. Arguments as for `ClassicalRungeKutta`.
    """

    order: ClassVar[int] = 1
    default_steps: ClassVar[int] = 50

    def stages(self, form: Form, t: Tensor, s: Tensor) -> tuple[Sequence[Tensor], Sequence[Sequence[Tensor]]]:
        return [t, s], [[form.advance(t, s).p]]


class Heun(ClassicalRungeKutta):
    """Heun's method: an Euler step, then the average of the slopes at both ends; two calls per step (Karras et al. 2022, algorithm 1).

    Arguments as for `ClassicalRungeKutta`.
    """

    order: ClassVar[int] = 2

    def stages(self, form: Form, t: Tensor, s: Tensor) -> tuple[Sequence[Tensor], Sequence[Sequence[Tensor]]]:
        h = form.advance(t, s).p
        return [t, s, s], [[h], [h / 2, h / 2]]


class Midpoint(ClassicalRungeKutta):
    """The step is made with the prediction half-way in log-SNR; two calls per step.

    DPM-Solver-2 in the form "epsilon" (Lu et al. 2022, arXiv 2206.00927), DPM-Solver++(2S) in the form "x0" (2211.01095); with eta = 1 the
    latter is k-diffusion's `dpmpp_sde`, with the noise of the process itself. Arguments as for `ClassicalRungeKutta`; the form "t" has
    its middle in t.
    """

    order: ClassVar[int] = 2

    def stages(self, form: Form, t: Tensor, s: Tensor) -> tuple[Sequence[Tensor], Sequence[Sequence[Tensor]]]:
        u = (t + s) / 2 if self.form == "t" else form.sde.t_of_log_snr((form.sde.log_snr(t) + form.sde.log_snr(s)) / 2)
        to_u, zero = form.advance(t, u).p * form.advance(u, s).x, torch.zeros_like(t)
        return [t, u, s], [[to_u], [zero, form.advance(t, s).p]]


class RK4(ClassicalRungeKutta):
    """The classical method of order 4, four calls per step. Arguments as for `ClassicalRungeKutta`."""

    order: ClassVar[int] = 4

    def stages(self, form: Form, t: Tensor, s: Tensor) -> tuple[Sequence[Tensor], Sequence[Sequence[Tensor]]]:
        h, zero = form.advance(t, s).p, torch.zeros_like(t)
        u = form.time((form.tau(t) + form.tau(s)) / 2)
        return [t, u, u, s, s], [[h / 2], [zero, h / 2], [zero, zero, h], [h / 6, h / 3, h / 3, h / 6]]


@dataclasses.dataclass(frozen=True)
class DPMSolver(RungeKutta):
    """DPM-Solver: exponential Runge-Kutta stages at equal parts of the log-SNR, as many calls per step as its order.

    p is taken for constant (order 1, DDIM), given by the middle (order 2, `Midpoint`) or linear in lam (order 3). With eta = 1 it is the
    SEEDS of the same number of stages (Gonzalez et al. 2023, arXiv 2305.14267), of weak order 2 at most.

    Args:
        order: 1, 2 or 3.
        form: "epsilon" (Lu et al. 2022, arXiv 2206.00927) or "x0" (DPM-Solver++, 2211.01095, singlestep).
        eta: 0 (ODE) to 1 (SDE) or larger.
    """

    order: int = 3  # type: ignore[misc]
    form: str = "epsilon"
    eta: float = 0.0

    def __post_init__(self) -> None:
        plain_floats(self)
        check_eta(self.eta)
        check_form(self.form, "epsilon", "x0")
        check_order(self.order, 3)

    def stages(self, form: Form, t: Tensor, s: Tensor) -> tuple[Sequence[Tensor], Sequence[Sequence[Tensor]]]:
        if self.order < 3:
            solver = (Euler if self.order == 1 else Midpoint)(self.form, self.eta)
            return solver.stages(form, t, s)
        lam, end = form.sde.log_snr(t), form.sde.log_snr(s)
        u, v = (form.sde.t_of_log_snr(torch.lerp(lam, end, part)) for part in (1 / 3, 2 / 3))
        to_u = form.advance(t, u).p * form.advance(u, s).x
        (constant_v, linear_v), (constant, linear) = (moments(form, t, w, 2, "log_snr").unbind(1) for w in (v, s))
        back = form.advance(v, s).x  # n_s/n_v
        slope_v, slope = 2 * linear_v * back, 1.5 * linear  # p_1 - p_0 spans half of t..v, p_2 - p_0 two thirds of t..s
        zero = torch.zeros_like(t)
        return [t, u, v, s], [[to_u], [constant_v * back - slope_v, slope_v], [constant - slope, zero, slope]]
