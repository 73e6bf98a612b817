"""How well a model predicts data that it never saw: bits per dimension of quantised data, nats of continuous data.

The mean over n held-out samples, with the 95 % interval of a mean of n independent numbers: all that is random about a sample's number, the
noise that dequantises it and the probes of the trace, is in their spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.evaluation.measurement import Estimate, Measurement
from sde_diffusion.likelihood.bits import BATCH, bits_per_dim
from sde_diffusion.likelihood.dequantization import LEAST_TAU, Quantization, TruncatedNormal
from sde_diffusion.likelihood.flow import check_data, default_t_min, log_likelihood
from sde_diffusion.noise import PerSample
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_count
from sde_diffusion.solvers.adaptive import select

BITS, NATS = "bits_per_dim", "negative_log_likelihood"  # metrics
SAMPLES = 256
EXACT = 32  # dimensions up to which the trace is exact by default; it costs a product for each
PROBES = 1  # of 360 digits they leave open .003 bits/dim, the data .022
TOLERANCE = 1e-5  # of the flow: on a network of digits 1e-4 is off by .01 bits/dim on average, 1e-5 by .001


@dataclass(frozen=True)
class HeldOutLikelihood:
    """The likelihood of held-out data, and how it was found.

    Args:
        metric: "bits_per_dim", an upper bound on the bits of the integers, or "negative_log_likelihood" in nats.
        value: mean over the samples.
        low: lower end of the 95 % interval.
        high: upper end.
        n: samples.
        dimensions: of a sample.
        levels: grey levels; None for continuous data.
        dequantization: "uniform" or "truncated_normal"; None for continuous data.
        probes: of the trace; 0: it was exact.
        probe_error: standard error that the probes leave in one sample's value, on average.
        t: time at which the density was taken.
        nfe: mean number of network calls of a sample.
    """

    metric: str
    value: float
    low: float
    high: float
    n: int
    dimensions: int
    levels: int | None
    dequantization: str | None
    probes: int
    probe_error: float
    t: float
    nfe: float

    def measurement(self) -> Measurement:
        """As a line among other metrics."""
        return Measurement(self.metric, self.value, self.low, self.high, None, None, self.dequantization or "-", self.n)


@torch.no_grad()
def held_out_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    *,
    levels: int | None = None,
    cond: Any = None,
    n: int = SAMPLES,
    probes: int | None = None,
    distribution: str = "rademacher",
    directions: int = 0,
    seed: int = 0,
    batch_size: int = BATCH,
    rtol: float = TOLERANCE,
    atol: float = TOLERANCE,
    data_std: float = 0.7,
) -> HeldOutLikelihood:
    """The bits per dimension of quantised data, by the noise with which they were dequantised, or the nats of continuous data.

    Args:
        denoiser: the model, on whose device it is computed.
        x: held-out data (m, *d), m >= 2.
        levels: grey levels of quantised data. Off the grid they get uniform noise; on it that of the process (TruncatedNormal), unless the
            process has so much from the start that it hides the grid.
        cond: labels (m,) of a conditional denoiser.
        n: samples, of which are chosen at random; all, if there are fewer.
        probes: of Hutchinson's estimate; 0 for the exact trace, of at most 256 dimensions; None: exact up to 32 dimensions, else 1.
        distribution: of the probes, as of log_likelihood.
        directions: how many of the probes' products take the trace exactly, as of log_likelihood.
        seed: of the choice; sample i has the noise of seed + i.
        batch_size: samples whose flow is solved together.
        rtol: relative tolerance of the flow.
        atol: absolute tolerance.
        data_std: standard deviation of the data, > 0, for the flow's clock.

    Raises:
        ValueError: for fewer than 2 samples, negative probes, integers without levels, numbers that are not finite, too many dimensions for
            an exact trace, and where log_likelihood raises it.
        ArithmeticError: if the tolerance cannot be met.
    """
    check_count(n=n)
    if min(n, len(x)) < 2 or (probes or 0) < 0:
        raise ValueError(f"an interval needs at least 2 samples, and probes are 0 (exact) or more, got {min(n, len(x))} and {probes}")
    if levels is None:
        check_data(x)
    dimensions = x[0].numel()
    probes = (0 if dimensions <= EXACT else PROBES) if probes is None else probes
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n]
    device = denoiser.like.device
    chosen = x[rows.to(x.device)].to(device)
    cond = select(cond, rows, len(x))
    cond = cond.to(device) if isinstance(cond, Tensor) else cond
    seeds = [seed + i for i in range(len(rows))]
    options: dict[str, Any] = {
        "method": "hutchinson" if probes else "exact",
        "probes": probes or 1,
        "distribution": distribution,
        "directions": directions,
        "rtol": rtol,
        "atol": atol,
        "data_std": data_std,
    }
    law, t = None, default_t_min(denoiser.sde)
    if levels is None:
        values, errors, nfe = _nats(denoiser, chosen, cond, seeds, batch_size, options)
    else:
        quantization = quantization_of(x, levels)
        law = law_of(quantization, denoiser.sde)
        values, errors, _, nfe, t = bits_per_dim(
            denoiser, chosen, quantization=quantization, dequantization=law, cond=cond, seeds=seeds, batch_size=batch_size, **options
        )
    mean = Estimate(values.mean().item(), values.std().item() / math.sqrt(len(values)), len(values) - 1)
    return HeldOutLikelihood(
        metric=NATS if levels is None else BITS,
        value=mean.value,
        low=mean.interval()[0],
        high=mean.interval()[1],
        n=len(values),
        dimensions=dimensions,
        levels=levels,
        dequantization=law,
        probes=probes,
        probe_error=errors.mean().item(),
        t=t,
        nfe=nfe.double().mean().item(),
    )


def quantization_of(x: Tensor, levels: int) -> Quantization:
    """Whether data of so many levels lie on their grid or were dequantised."""
    grid = Quantization(levels, dequantized=False)
    try:
        grid.integers(x)
    except ValueError:
        return Quantization(levels)
    return grid


def law_of(quantization: Quantization, sde: AffineSDE) -> str:
    """The noise by which data are dequantised: the process's own for data on the grid, if it does not hide the grid; else uniform."""
    t = TruncatedNormal().time(sde, quantization, 0.0)
    tells = float(sde.alpha(t)) * quantization.width / 2 >= LEAST_TAU * float(sde.sigma(t))
    return "truncated_normal" if tells and not quantization.dequantized else "uniform"


def _nats(
    denoiser: Denoiser, x: Tensor, cond: Any, seeds: list[int], batch_size: int, options: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """-log p of continuous data, the standard errors and the calls, each (n,)."""
    found = []
    for rows in torch.arange(len(x)).split(batch_size):
        part, source = x[rows.to(x.device)].to(denoiser.like.dtype), PerSample(seeds[i] for i in rows)
        flow = log_likelihood(denoiser, part, cond=select(cond, rows, len(x)), noise=source, **options)
        found.append((-flow.nats, flow.standard_error, flow.nfe))
    values, errors, nfe = map(torch.cat, zip(*found, strict=True))
    return values, errors, nfe
