"""Multistep solvers: one call per step, and the memory of the last few.

For dy = p dtau + dB (forms.py) a step from t_i replaces p by the polynomial in zeta through its values at t_i, t_i-1, ..., t_i-q+1,

    x_s = (n_s/n_t) x_t + sum_j w_j p_i-j + n_s sqrt(v_s - v_t) z,    sum_j z_j^k w_j = n_s int z^k dtau,  k < q            (1)

where z_j is the place of t_i-j in zeta, with t_i at 0 and s at 1. What zeta is makes the family: tau itself Adams and Bashforth's, the
log-SNR DPM-Solver++ and UniPC, t DEIS, the number of the call iPNDM. A corrector puts the value at the end of a step into its own
polynomial once it is known, without another call,

    x_s <- x_s + sum_j (w'_j - w_j) p_j                                                                                    (2)

and since the next step is linear, both are one row. An error of the predictions is multiplied by up to

    a = sum_j |w_j|/|sum_j w_j|                                                                                            (3)

On equal steps Adams and Bashforth's a is 1, 2, 11/3, 20/3, 551/45 for q = 1..5; where steps grow it can be much larger (109 for q = 5 in
the fifth of 15 steps of vp_power(R=2.0) in velocity), which an exact denoiser forgives and a network does not.

The first steps have fewer values and so lower order, and a step that ends where sigma = 0 has order 1.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import torch
from torch import Tensor

from sde_diffusion.expressions import plain_floats
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_positive
from sde_diffusion.solvers.base import Solver
from sde_diffusion.solvers.first_order import check_eta
from sde_diffusion.solvers.forms import FORMS, Form, check_form, check_order, moments, position
from sde_diffusion.solvers.grids import Grid, log_snr, vp_power
from sde_diffusion.solvers.runge_kutta import Heun
from sde_diffusion.solvers.tableau import Tableau


class Multistep(Solver):
    """A solver that is (1), and (2) if it has a corrector."""

    order: int  # type: ignore[misc]
    form: Any
    """What is interpolated, the p of forms.py."""
    variable: Any = "tau"
    """What it is interpolated in, zeta."""
    eta: Any = 0.0
    corrector: Any = False
    lower_final: Any = 0
    limit: float | None = None
    default_steps: ClassVar[int] = 20
    default_grid: ClassVar[Grid] = vp_power

    @property
    def weak_order(self) -> int:
        """The order on a grid that begins with small steps, and ends so with `lower_final`; else it is 2, or 3 if corrected."""
        return min(self.order, 2) if self.eta else self.order + self.corrector

    def weights(self, form: Form, t: Tensor, s: Tensor, z: Tensor) -> Tensor:
        """w (n, q) for steps from t to s with values at z (n, q)."""
        return solve(z, moments(form, t, s, z.shape[1], self.variable))

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        form = FORMS[self.form](sde, self.eta)
        x, _, noise = form.advance(t, s)
        p_x, p_x0 = form.prediction(t)
        points = self._points(form, t, s)
        p = self._predict(form, t, s, points)
        if self.corrector and len(t) > 1:
            if not torch.equal(s[:-1], t[1:]):
                raise ValueError(f"the corrector of {self} needs steps that follow one another; Churn and Renoise need corrector=False")
            change = self._correct(form, t, s, points) - torch.nn.functional.pad(p[:-1], (1, 0))
            p = torch.nn.functional.pad(p, (0, 1))
            p[1:] += x[1:, None] * change
        return Tableau(t=t, x=x, p=p, noise=noise, ends=s, p_x=p_x, p_x0=p_x0)

    def _points(self, form: Form, t: Tensor, s: Tensor) -> Tensor:
        """How many values each step uses."""
        n = len(t)
        points = torch.arange(1, n + 1).clamp(max=self.order)
        if self.lower_final:
            points = torch.minimum(points, torch.arange(n, 0, -1) + self.lower_final - 1)
        points = torch.where(form.sde.sigma(s) > 0, points, 1)
        if self.limit is None:
            return points
        allowed = torch.ones_like(points)
        for q in range(2, self.order + 1):
            w = self._predict(form, t, s, points.clamp(max=q))
            tame = w.abs().sum(1) <= self.limit * _amplification(q) * w.sum(1).abs()
            allowed = torch.where(tame & (points >= q), q, allowed)
        return allowed

    def _predict(self, form: Form, t: Tensor, s: Tensor, points: Tensor) -> Tensor:
        """The weights of (1), (n, order)."""
        place = position(form, t, self.variable)
        end = place + 1 if self.variable == "index" else position(form, s, self.variable)
        p = torch.zeros(len(t), self.order, dtype=torch.float64)
        for q in points.unique().tolist():
            i = (points == q).nonzero()[:, 0]
            if q == 1:
                p[i, 0] = form.advance(t[i], s[i]).p
                continue
            z = (place[i[:, None] - torch.arange(q)] - place[i, None]) / (end - place)[i, None]
            p[i, :q] = self.weights(form, t[i], s[i], z)
        return p

    def _correct(self, form: Form, t: Tensor, s: Tensor, points: Tensor) -> Tensor:
        """The weights w' of (2) for the steps but the last, the value at its end first: (n - 1, order + 1)."""
        place = position(form, t, self.variable)
        p = torch.zeros(len(t) - 1, self.order + 1, dtype=torch.float64)
        for q in points[:-1].unique().tolist():
            i = (points[:-1] == q).nonzero()[:, 0]
            z = (place[i[:, None] + 1 - torch.arange(q + 1)] - place[i, None]) / (place[i + 1] - place[i])[:, None]
            p[i, : q + 1] = self.weights(form, t[i], s[i], z)
        return p


def solve(z: Tensor, moments: Tensor) -> Tensor:
    """w with sum_j z_j^k w_j = moments_k; z and moments (n, q)."""
    powers = torch.arange(z.shape[1], dtype=torch.float64)
    return torch.linalg.solve(z[:, None, :] ** powers[None, :, None], moments[..., None])[..., 0]


@functools.cache
def _amplification(order: int) -> float:
    """(3) of Adams and Bashforth on equal steps."""
    k = torch.arange(order, dtype=torch.float64)
    return float(solve(-k[None], 1 / (k + 1)[None]).abs().sum())


def check_last(lower_final: int, order: int) -> None:
    """Raises ValueError unless 0 <= lower_final <= order."""
    if not 0 <= lower_final <= order:
        raise ValueError(f"lower_final is the order of the last step, 1 to order={order}, or 0 for no lowering, got {lower_final}")


def halve(form: Form, t: Tensor, s: Tensor, z: Tensor, scale: Tensor | None = None) -> Tensor:
    """w for two values, with scale/2 (by default that of a constant p) in place of the moment of z."""
    constant = form.advance(t, s).p
    return solve(z, torch.stack([constant, (constant if scale is None else scale) / 2], 1))


def end_scale(form: Form, t: Tensor, s: Tensor) -> Tensor:
    """The integral of p's weight over a step, if it were everywhere what it is at the end."""
    end = form.sde.log_snr(s)
    return form.density(end, s) * (end - form.sde.log_snr(t))


@dataclasses.dataclass(frozen=True)
class AdamsBashforth(Multistep):
    """Adams-Bashforth with variable steps: p is a polynomial in tau.

    The form "epsilon" is the linear multistep method in sigma (LMS) and variable-step iPNDM; "velocity" has tau = sigma/(sigma + alpha).

    Args:
        order: 1 to 5.
        form: "epsilon", "velocity" or "x0".
        corrector: whether to correct each step by Adams-Moulton (2), of one order more.
        lower_final: the order of the last step, to which the last steps come down one by one; 0: that of all. The last is not corrected.
        limit: how many times more than on equal steps the weights may amplify errors of the predictions (3), > 0; a step on which they
            do has a lower order. None: no limit.
    """

    order: int = 4  # type: ignore[misc]
    form: str = "velocity"
    corrector: bool = False
    lower_final: int = 0
    limit: float | None = None

    def __post_init__(self) -> None:
        check_order(self.order, 5)
        check_form(self.form, "epsilon", "velocity", "x0")
        check_last(self.lower_final, self.order)
        if self.limit is not None:
            check_positive(limit=self.limit)
            object.__setattr__(self, "limit", float(self.limit))


@dataclasses.dataclass(frozen=True)
class DEIS(Multistep):
    """tAB-DEIS: epsilon is a polynomial in t (Zhang & Chen 2022, arXiv 2204.13902); order 1 is DDIM.

    Args:
        order: 1 to 4.
        variable: "t", or "log_snr", diffusers' choice, in which it is DPM-Solver's multistep.
        lower_final: the order of the last step, to which the last steps come down one by one; 0: that of all.
    """

    order: int = 3  # type: ignore[misc]
    variable: str = "t"
    lower_final: int = 0
    form: ClassVar[str] = "epsilon"  # type: ignore[misc]

    def __post_init__(self) -> None:
        check_order(self.order, 4)
        check_last(self.lower_final, self.order)
        if self.variable not in ("t", "log_snr"):
            raise ValueError(f"variable must be 't' or 'log_snr', got {self.variable!r}")


@dataclasses.dataclass(frozen=True)
class IPNDM(Multistep):
    """iPNDM: Adams-Bashforth's weights for equal steps, whatever the grid (Liu et al. 2022, arXiv 2202.09778; Zhang & Chen 2022).

    On a grid of equal steps in sigma/alpha it is Adams and Bashforth's, on any other of order 2 at most. With start="heun" it is
    diffusers' PNDM with `skip_prk_steps`, Stable Diffusion's.

    Args:
        order: 1 to 4.
        variable_step: whether to use the weights of the grid's own steps: `AdamsBashforth(order, "epsilon")`.
        lower_final: the order of the last step, to which the last steps come down one by one; 0: that of all.
        start: the first step, "euler", or "heun" for one call more.
        published: whether orders 3 and 4 with variable steps are diff-sampler's `ipndm_v` (Zhou et al. 2024, arXiv 2312.00094), whose
            weights are wrong where steps differ, and for order 4 everywhere; it is then of order 2, though its error is often the smaller
            one below about 24 steps.
    """

    order: int = 4  # type: ignore[misc]
    variable_step: bool = False
    lower_final: int = 0
    start: str = "euler"
    published: bool = False
    form: ClassVar[str] = "epsilon"  # type: ignore[misc]

    def __post_init__(self) -> None:
        check_order(self.order, 4)
        check_last(self.lower_final, self.order)
        if self.start not in ("euler", "heun"):
            raise ValueError(f"start must be 'euler' or 'heun', got {self.start!r}")
        if self.published and not self.variable_step:
            raise ValueError("published=True is ipndm_v, got it with variable_step=False; set variable_step=True")

    @property
    def variable(self) -> str:
        return "tau" if self.variable_step else "index"

    @property
    def weak_order(self) -> int:
        return min(self.order, 2 if (self.published and self.order == 4) or not self.variable_step else 4)

    def weights(self, form: Form, t: Tensor, s: Tensor, z: Tensor) -> Tensor:
        w = super().weights(form, t, s, z)
        if not self.published or z.shape[1] < 3:
            return w
        # Newton's form: w is that of p_0, of its differences S = p_0 - p_1 - (a/b)(p_1 - p_2) and T of third order, for steps 1, a, b, c
        a, b, *more = (-z.diff(dim=1)).unbind(1)
        ratio, zero = a / b, torch.zeros_like(a)
        slip = (1 - (1 + a) / (a * (a + b))) / 2  # of the weight of S: a bracket around 1 - 1/(3 (1 + a)) is missing
        wrong = slip * torch.stack([1 + zero, -1 - ratio, ratio, zero])
        for c in more:
            q, odd = a * (a + b) / (b * (b + c)), (1 - 0.5 / (1 + a)) / (6 * (1 + a + b))
            scale = (1 + a) * (1 + a + b) / (a * (a + b) * (a + b + c))
            wrong += 2 * odd * scale * torch.stack([1 + zero, -1 - ratio - q, ratio + q * (1 + b / c), -q * b / c])  # + odd for - odd
            wrong[3] += (0.5 - 1 / (6 * (1 + a)) + odd) * scale * q * (b / c - ratio)  # a/b for b/c
        return w + (form.advance(t, s).p * wrong).T[:, : z.shape[1]]

    def rows(self, sde: AffineSDE, t: Tensor, s: Tensor) -> Tableau:
        table = super().rows(sde, t, s)
        if self.start == "euler":
            return table
        rest = table[1:]
        p = torch.nn.functional.pad(rest.p, (0, 1))
        for i in range(1, min(self.order, len(t))):  # Heun's second prediction comes between the first step's and the later ones
            p[i - 1, i + 1], p[i - 1, i] = rest.p[i - 1, i], 0
        return Tableau.concatenate([Heun().rows(sde, t[:1], s[:1]), dataclasses.replace(rest, p=p)])


@dataclasses.dataclass(frozen=True)
class DPMSolverPP(Multistep):
    """DPM-Solver++ multistep: x0_hat is a polynomial in the log-SNR (Lu et al. 2022, arXiv 2211.01095).

    Order 2 replaces the moment of z by half of a constant's (the paper's form; 2M), unless exact. Order 3 as published (3M) has half of the
    quadratic term, a missing factor 2 which makes it of order 2, though its error is often the smaller one below about 24 steps.

    Args:
        order: 1 (DDIM), 2 (2M) or 3 (3M).
        stochastic: whether to add noise as the reverse SDE does, eta = 1 (2M-SDE, 3M-SDE), or not, eta = 0.
        exact: whether order 2 integrates the polynomial exactly (`solver_type="heun"` in diffusers and k-diffusion).
        published: whether order 3 is the published one.
        lower_final: the order of the last step, to which the last steps come down one by one; 0: that of all.
        form: "x0", or "epsilon" for DPM-Solver's multistep (2206.00927).
    """

    order: int = 2  # type: ignore[misc]
    stochastic: bool = False
    exact: bool = False
    published: bool = False
    lower_final: int = 0
    form: str = "x0"
    variable: ClassVar[str] = "log_snr"  # type: ignore[misc]
    default_grid: ClassVar[Grid] = log_snr

    def __post_init__(self) -> None:
        check_order(self.order, 3)
        check_last(self.lower_final, self.order)
        check_form(self.form, "x0", "epsilon")

    @property
    def eta(self) -> float:
        return float(self.stochastic)

    @property
    def weak_order(self) -> int:
        return min(self.order, 2) if self.stochastic or self.published else self.order

    def weights(self, form: Form, t: Tensor, s: Tensor, z: Tensor) -> Tensor:
        if z.shape[1] == 2 and not self.exact:
            return halve(form, t, s, z)
        exact = moments(form, t, s, z.shape[1], self.variable)
        if z.shape[1] == 3 and self.published:
            exact[:, 2] /= 2
        return solve(z, exact)


@dataclasses.dataclass(frozen=True)
class UniPC(Multistep):
    """UniPC: a polynomial in the log-SNR, and each step corrected by the value at its end (Zhao et al. 2023, arXiv 2302.04867).

    Where two values are used, the moment of z is half of B(h): that of a constant p ("bh2") or of p's weight at the end ("bh1").

    Args:
        order: 1 to 4 of the predictor; the corrector adds one.
        variant: "bh1" or "bh2".
        corrector: whether to correct.
        form: "x0" or "epsilon", what is interpolated.
        lower_final: the order of the last step, to which the last steps come down one by one; 0: that of all.
    """

    order: int = 3  # type: ignore[misc]
    variant: str = "bh2"
    corrector: bool = True
    form: str = "x0"
    lower_final: int = 1
    variable: ClassVar[str] = "log_snr"  # type: ignore[misc]
    default_grid: ClassVar[Grid] = log_snr

    def __post_init__(self) -> None:
        check_order(self.order, 4)
        check_last(self.lower_final, self.order)
        check_form(self.form, "x0", "epsilon")
        if self.variant not in ("bh1", "bh2"):
            raise ValueError(f"variant must be 'bh1' or 'bh2', got {self.variant!r}")

    def weights(self, form: Form, t: Tensor, s: Tensor, z: Tensor) -> Tensor:
        if z.shape[1] > 2:
            return super().weights(form, t, s, z)
        return halve(form, t, s, z, end_scale(form, t, s) if self.variant == "bh1" else None)


@dataclasses.dataclass(frozen=True)
class SASolver(Multistep):
    """Stochastic Adams: the reverse process of any eta, x0_hat a polynomial in the log-SNR (Xue et al. 2023, arXiv 2309.05019).

    Args:
        order: 1 to 4 of the predictor; the corrector adds one.
        eta: 0 (ODE) to 1 (SDE) or larger, the paper's tau.
        corrector: whether to correct each step by the value at its end, with the noise of the step kept.
        lower_final: the order of the last step, to which the last steps come down one by one; 0: that of all.
        published: whether the moment of z is that of UniPC's "bh1" where two values are used, as in the authors' code; of the same order.
    """

    order: int = 3  # type: ignore[misc]
    eta: float = 1.0
    corrector: bool = True
    lower_final: int = 0
    published: bool = False
    form: ClassVar[str] = "x0"  # type: ignore[misc]
    variable: ClassVar[str] = "log_snr"  # type: ignore[misc]
    default_grid: ClassVar[Grid] = log_snr

    def __post_init__(self) -> None:
        plain_floats(self)
        check_order(self.order, 4)
        check_last(self.lower_final, self.order)
        check_eta(self.eta)

    def weights(self, form: Form, t: Tensor, s: Tensor, z: Tensor) -> Tensor:
        if not self.published or z.shape[1] != 2:
            return super().weights(form, t, s, z)
        return halve(form, t, s, z, end_scale(form, t, s))
