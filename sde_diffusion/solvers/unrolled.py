"""A deterministic solver with n network calls, unrolled: every number of its table as a parameter.

With z = x/alpha and rho = sigma/alpha, the state at which call k is made, and the result z_n, are

    z_k = r_k z_T + (1 - r_k) D_{k-1} + sum_{j < k-1} w_kj (D_j - D_{j+1}),    r_k = rho_k/rho_T, D_{-1} = 0     (1)
    D_k = x0_hat(alpha(t_k) z_k, t_k),    log sigma/alpha(t_k) = log rho_k + shift_k                            (2)

Every linear multistep and Runge-Kutta table is of this form. Its parameters are n nominal levels rho_0 > ... > rho_{n-1} (the last,
rho_n, is that of the end), n shifts of the time at which the network is asked, and n (n - 1)/2 weights. A constant prediction is reproduced
exactly, whatever they are: then all differences in (1) vanish, and z_k = r_k z_T + (1 - r_k) D is the flow. Before call 0, which has no
prediction to go by, the state is only scaled: exact in the limit of large rho, and left to the fit elsewhere.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.solvers.tableau import Tableau

_FIRST = 1e-3  # of the range of log rho, by which call 0 is nominally below the start: a gap of zero could not grow
_CONSISTENT = 1e-6  # by which a table's reproduction of a constant may be off
_SCALE = 0.1  # of a first trial step: in the logarithms of the levels, and in the change of z over the range of a row's features
_SMALLEST = 1e-2  # singular value of a row's features, relative to the data, below which a direction is left alone


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where each parameter of (1), (2) is in one vector: n + 1 logits of the gaps in log rho, n shifts, the rows of w.

    Args:
        sde: the process.
        n: network calls.
    """

    sde: AffineSDE
    n: int

    @functools.cached_property
    def log_rho(self) -> tuple[float, float]:
        """At t_max and t_min."""
        return tuple(-float(self.sde.log_snr(t)) for t in (self.sde.t_max, self.sde.t_min))  # type: ignore[return-value]

    @property
    def shifts(self) -> slice:
        return slice(self.n + 1, 2 * self.n + 1)

    def weights(self, k: int) -> slice:
        """Of row k = 1..n of (1)."""
        start = 2 * self.n + 1 + (k - 1) * (k - 2) // 2
        return slice(start, start + k - 1)

    def levels(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """log rho_0..n and log sigma/alpha(t_0..n-1), kept within the process's range."""
        high, low = self.log_rho
        nominal = high - (high - low) * v[: self.n + 1].softmax(0).cumsum(0)
        return nominal, (nominal[:-1] + v[self.shifts]).clamp(low, high)

    def vector(self, log_rho: Tensor, rows: list[Tensor], shifts: Tensor | None = None) -> Tensor:
        """The parameters for nominal levels log rho_0..n and weights; no shifts by default."""
        high, low = self.log_rho
        gaps = torch.cat([high - log_rho[:1], log_rho[:-1] - log_rho[1:]]) / (high - low)
        shift = torch.zeros(self.n, dtype=torch.float64) if shifts is None else shifts
        return torch.cat([gaps.clamp(min=_FIRST).log(), shift, *rows])

    def run(self, denoiser: Denoiser, z: Tensor, v: Tensor, cond: Any = None) -> tuple[Tensor, list[Tensor]]:
        """(z_n, D_0..n-1) from z_T = z; with gradients the network's own activations are computed anew on the way back."""
        nominal, asked = self.levels(v)
        ratios = (nominal - self.log_rho[0]).exp()
        state, predictions = z * ratios[0].to(z), list[Tensor]()
        for k in range(1, self.n + 1):
            if torch.is_grad_enabled():
                newest = checkpoint(predict, denoiser, state, asked[k - 1], cond, use_reentrant=False, preserve_rng_state=False)
            else:
                newest = predict(denoiser, state, asked[k - 1], cond)
            predictions.append(newest)
            state = self.state(z, ratios[k], predictions, v[self.weights(k)])
        return state, predictions

    @staticmethod
    def state(z: Tensor, ratio: Tensor, predictions: list[Tensor], weights: Tensor) -> Tensor:
        """(1)."""
        state = z * ratio.to(z) + predictions[-1] * (1 - ratio).to(z)
        if len(weights):
            before = torch.stack(predictions[:-1]) - torch.stack(predictions[1:])
            state = state + torch.tensordot(weights.to(z), before, 1)
        return state

    def scale(self, predictions: list[Tensor], paths: Tensor, unit: float) -> Tensor:
        """A matrix that turns steps of size 1 into parameters' whose effects on the states are of one size.

        Args:
            predictions: D_k, (b, *d) each.
            paths: (b,) weights of the paths.
            unit: size of the data.
        """
        parts = [torch.eye(2 * self.n + 1, dtype=torch.float64)]
        root = paths.sqrt()[:, None].cpu()
        flat = [(a - b).double().flatten(1).cpu() * root for a, b in itertools.pairwise(predictions)]
        for k in range(2, self.n + 1):
            features = torch.stack([f.flatten() for f in flat[: k - 1]], 1) / (unit * flat[0].shape[1] ** 0.5)
            _, sizes, directions = torch.linalg.svd(torch.linalg.qr(features).R)
            parts.append(directions.T / torch.hypot(sizes, torch.tensor(_SMALLEST, dtype=torch.float64)))
        return torch.block_diag(*parts) * _SCALE

    def table(self, v: Tensor) -> Tableau:
        """The parameters as the table that `sample` runs: the state is held at the scale alpha(t_k) of the next call."""
        nominal, asked = (level.detach() for level in self.levels(v))
        sde, n = self.sde, self.n
        times = torch.cat([self.time(asked), torch.tensor([sde.t_min], dtype=torch.float64)])
        alpha, ratios = sde.alpha(times), (nominal - self.log_rho[0]).exp()
        before = torch.zeros(n, dtype=torch.float64)
        p = torch.zeros(n + 1, n, dtype=torch.float64)
        x = torch.empty(n + 1, dtype=torch.float64)
        x[0] = ratios[0] * alpha[0] / sde.alpha(sde.t_max)
        for k in range(1, n + 1):
            weights = torch.zeros(n, dtype=torch.float64)
            weights[: k - 1] += v[self.weights(k)]
            weights[1:k] -= v[self.weights(k)]
            weights[k - 1] += 1 - ratios[k]
            ratio = ratios[k] / ratios[k - 1]
            p[k, :k] = (alpha[k] * (weights - ratio * before))[:k].flip(0)
            x[k], before = ratio * alpha[k] / alpha[k - 1], weights
        first = torch.tensor([sde.t_max], dtype=torch.float64)
        asks = torch.ones(n + 1, dtype=torch.float64)
        asks[0] = 0
        ends = torch.cat([torch.tensor([math.nan], dtype=torch.float64), times[1:]])
        return Tableau(t=torch.cat([first, times[:-1]]), x=x, p=p, ends=ends, p_x0=asks)

    def time(self, log_rho: Tensor) -> Tensor:
        return self.sde.t_of_log_snr(-log_rho).clamp(self.sde.t_min, self.sde.t_max)

    def valid(self, v: Tensor) -> bool:
        """Whether the calls are made at decreasing times."""
        times = self.time(self.levels(v)[1])
        return bool(v.isfinite().all() and (times[1:] < times[:-1]).all() and (times > self.sde.t_min).all())

    def unroll(self, table: Tableau) -> Tensor | None:
        """The parameters of a table; None where it is not of the form (1), such as one whose stages do not reproduce a constant."""
        sde, n = self.sde, self.n
        basis = torch.eye(n + 1, dtype=torch.float64)  # z_T, D_0, ..., D_{n-1}
        state, alpha = basis[0] * sde.alpha(sde.t_max), sde.alpha(table.calls)
        kept: list[Tensor] = []
        asked: list[Tensor] = []
        for row in table.rows:
            if row.p_x or row.p_x0:
                if row.p_x0:
                    asked.append(state / alpha[len(asked)])
                kept.insert(0, row.p_x * state + row.p_x0 * basis[len(asked)])
            state = row.x * state + sum((w * p for w, p in zip(row.p, kept, strict=False)), torch.zeros_like(state))
        z = torch.stack([*asked, state / sde.alpha(sde.t_min)])
        ratios, log_rho = z[:, 0], -sde.log_snr(table.calls)
        short = 1 - ratios[1:] - z[1:, 1:].sum(1)
        if not (ratios > 0).all() or short.abs().max() > _CONSISTENT:
            return None
        nominal = ratios.log() + self.log_rho[0]
        rows = [z[k, 1:k].cumsum(0) for k in range(1, n + 1)]
        v = self.vector(nominal, rows, log_rho - nominal[:-1])
        return v if self.valid(v) else None


def predict(denoiser: Denoiser, z: Tensor, log_rho: Tensor, cond: Any) -> Tensor:
    """x0_hat at z = x/alpha, differentiable in the level too."""
    t = time(denoiser.sde, log_rho)
    x0_hat: Tensor = denoiser(z * denoiser.sde.alpha(t).to(z), t, cond)
    return x0_hat


def time(sde: AffineSDE, log_rho: Tensor) -> Tensor:
    """The time of a level, differentiable: dt/dlog rho = 2 sigma^2/g^2."""
    t = sde.t_of_log_snr(-log_rho.detach()).clamp(sde.t_min, sde.t_max)
    return t + (log_rho - log_rho.detach()) * (2 * sde.sigma(t) ** 2 / sde.g(t) ** 2)


def check_continuous(sde: Any, who: str) -> None:
    """Raises ValueError for a chain, and for a process without a Gaussian kernel."""
    if not isinstance(sde, AffineSDE) or sde.length is not None:
        raise ValueError(f"{who} a continuous affine process, got {sde!r}; use denoiser.under(VPSDE()), and sample that")
