"""How much noise a step of the reverse chain should add.

Given a belief x0_hat, the step from t to s draws from N(m(x_t, x0_hat), c^2 I) where the posterior p(x_s | x_t, x_0) has the mean
m = w_x x_t + w_0 x_0 and the variance c_0^2. The expected Kullback-Leibler divergence between the two is, per dimension,

    KL(s, t) = (c_0^2/c^2 - 1 + log(c^2/c_0^2) + w_0^2 e_t/c^2)/2,     e_t = E|x_0 - x0_hat(x_t)|^2/d             (1)

with the smallest value log(c^2/c_0^2)/2 at

    c^2 = c_0^2 + w_0^2 e_t                                                                      (2)

Bao et al. 2022 (Analytic-DPM, arXiv 2201.06503) have (2) with Gamma_t = E|eps_hat|^2/d instead of e_t: (alpha/sigma)^2 e_t = 1 - Gamma_t if
x0_hat is E[x_0 | x_t]. For any other belief (2) holds with e_t only, and e_t asks for no more network calls: it is the training loss. For
e_t <= (sigma/alpha)^2, what x_t/alpha reaches without a network, c^2 lies between c_0^2 and Q/A^2, the bounds of Bao et al.'s theorem 2.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.noise import Noise, make_noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_count
from sde_diffusion.solvers.grids import last_noise
from sde_diffusion.solvers.grids import log_snr as log_snr_grid

VARIANCES = ("posterior", "forward", "analytic")


@dataclasses.dataclass(frozen=True)
class ReconstructionError:
    """How well a denoiser knows the data at each noise level: e = E|x_0 - x0_hat|^2/d as a function of lam = log(alpha/sigma).

    Estimated once per model. Between the levels e/(rho^2/(1 + rho^2)), rho = sigma/alpha, is interpolated by monotone cubics (pchip) in
    lam, and constant beyond them: that ratio is 1 for data of unit variance, and tends to constants at both ends for any other.

    Args:
        log_snr: log(alpha/sigma) of the levels, increasing, at least two.
        error: e at each of them, >= 0, in units of the data squared.

    Raises:
        ValueError: for levels that do not increase, or an error that is negative or not finite.
    """

    log_snr: tuple[float, ...]
    error: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("log_snr", "error"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
            if not all(map(math.isfinite, getattr(self, name))):
                raise ValueError(f"{name} must be finite numbers; leave out levels without noise or signal")
        if len(self.log_snr) != len(self.error) or len(self.error) < 2:
            raise ValueError(f"log_snr and error must be as many, at least 2, got {len(self.log_snr)} and {len(self.error)}")
        for i, (low, high) in enumerate(zip(self.log_snr, self.log_snr[1:], strict=False)):
            if not low < high:
                raise ValueError(
                    f"log_snr must increase, got log_snr[{i}]={low}, log_snr[{i + 1}]={high}; pass both in the order of falling t"
                )
        if min(self.error) < 0:
            raise ValueError(f"error is a mean square and cannot be negative, got {min(self.error)}")

    @staticmethod
    @torch.no_grad()
    def estimate(
        denoiser: Denoiser,
        data: Tensor,
        *,
        times: int | Tensor | Sequence[float] | None = None,
        noise: Noise | None = None,
        generator: torch.Generator | None = None,
        cond: Tensor | None = None,
        batch_size: int = 1024,
    ) -> ReconstructionError:
        """Measures a denoiser on data: one network pass over the data per time.

        Args:
            denoiser: the belief; its `sde` is the process.
            data: (n, *d), from the law that it was trained on; better not the very samples.
            times: at which to measure, or how many, equally spaced in log-SNR; by default all nodes of a chain, else 100.
            noise: the source of eps; `generator` may be given instead.
            cond: conditions of the data, (n, ...).
            batch_size: at least 1.
        """
        check_count(batch_size=batch_size)
        if data.ndim < 2 or not len(data):
            raise ValueError(f"data must have shape (n, *d), n >= 1, got {tuple(data.shape)}")
        sde, draw, like = denoiser.sde, make_noise(noise, generator=generator), denoiser.like
        if times is None and sde.length is not None:
            times = [i / sde.length for i in range(1, sde.length + 1)]
        if times is None or isinstance(times, int):
            count = 100 if times is None else times
            if count < 2:
                raise ValueError(f"times must be at least 2, got {times}")
            times = log_snr_grid(sde, count - 1, t_min=last_noise(sde, sde.t_min))
        levels = torch.as_tensor(times, dtype=torch.float64, device="cpu").sort(descending=True).values
        if not sde.log_snr(levels).isfinite().all():
            raise ValueError(f"{sde} has no noise or no signal at one of the times {levels[0]:g}, ..., {levels[-1]:g}; leave it out")
        errors = []
        for t in levels.tolist():
            total = 0.0
            for i in range(0, len(data), batch_size):
                x0 = data[i : i + batch_size].to(like)
                x0_hat = denoiser(sde.perturb(x0, t, draw(x0)), t, None if cond is None else cond[i : i + batch_size])
                total += (x0_hat - x0).double().square().sum().item()
            errors.append(total / data.numel())
        return ReconstructionError(tuple(sde.log_snr(levels).tolist()), tuple(errors))

    def at(self, log_snr: Tensor) -> Tensor:
        """e at levels of any shape, float64 on the CPU; 0 where there is no noise."""
        levels = log_snr.clamp(self.log_snr[0], self.log_snr[-1])
        return torch.from_numpy(self._ratio(levels.numpy())) * torch.sigmoid(-2 * log_snr)

    @functools.cached_property
    def _ratio(self) -> PchipInterpolator:
        levels = torch.tensor(self.log_snr, dtype=torch.float64)
        ratio = torch.tensor(self.error, dtype=torch.float64) / torch.sigmoid(-2 * levels)
        return PchipInterpolator(levels.numpy(), ratio.numpy())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes JSON, beside a checkpoint for instance; every float reads back equal.

        Raises:
            FileExistsError: if there is a file at `path`.
        """
        with open(path, "x", encoding="utf-8") as file:
            json.dump(dataclasses.asdict(self), file, indent=1)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> ReconstructionError:
        """Reads what `save` wrote.

        Raises:
            ValueError: if the file is something else.
        """
        try:
            return ReconstructionError(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no reconstruction error: {error}; write one with ReconstructionError.save") from error


def check_variance(variance: str, errors: ReconstructionError | None, allowed: Sequence[str] = VARIANCES) -> None:
    """Raises ValueError unless `variance` is one of `allowed` and has the errors that it needs."""
    if variance not in allowed:
        raise ValueError(f"variance must be {', '.join(map(repr, allowed[:-1]))} or {allowed[-1]!r}, got {variance!r}")
    if variance == "analytic" and not isinstance(errors, ReconstructionError):
        cure = "pass errors=ReconstructionError.estimate(denoiser, data)"
        raise ValueError(f"variance='analytic' follows from a model's errors, got errors={errors!r}; {cure}")


def reverse_variance(sde: AffineSDE, t: Tensor, s: Tensor, variance: str, errors: ReconstructionError | None = None) -> Tensor:
    """c^2 of the step from t to s: c_0^2 ("posterior"), Q ("forward") or (2) within its bounds ("analytic")."""
    if variance == "forward":
        return sde.transition(s, t).variance
    _, x0, posterior = sde.posterior(s, t)
    if variance == "posterior":
        return posterior
    assert errors is not None
    lam = sde.log_snr(t)
    return posterior + x0**2 * torch.minimum(errors.at(lam), torch.exp(-2 * lam))


def step_divergence(sde: AffineSDE, t: Tensor, s: Tensor, errors: ReconstructionError, variance: str) -> Tensor:
    """KL(s, t) of (1) in nats per dimension, for the step from t to s."""
    _, x0, posterior = sde.posterior(s, t)
    ratio = posterior / reverse_variance(sde, t, s, variance, errors)
    return 0.5 * (ratio - 1 - ratio.log() + ratio * x0**2 / posterior * errors.at(sde.log_snr(t)))
