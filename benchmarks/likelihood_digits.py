"""Bits per dimension of the 360 held-out digits under trained runs: a row per run, as a Markdown table.

    python benchmarks/likelihood_digits.py runs/likelihood_digits_vp runs/likelihood_digits_subvp ... [--n 360] [--probes 1]

All columns are upper bounds on the mean of -log2 P(k)/64, in bits, with a 95 % interval over the digits:

    uniform    probability flow, uniform noise in the bins; the trace by Hutchinson's estimate, or exact with --probes 0 (slow)
    K states   the same with K states per digit, exact traces, on the first --importance-n digits, and one state on the same digits
    truncated  probability flow, noise of the process cut off at the bins' ends, which suits models of data without uniform noise
    bound      the variational bound of the reverse SDE: of the density of digits with uniform noise, or, of a run that was trained without,
               with a decoder that gives the grey levels' probabilities
    train      as the first column, on as many training digits; the gap is how much is memorised

    python benchmarks/likelihood_digits.py runs/likelihood_digits_vp --spend 16

instead measures what products per call are best spent on: the error of log p to the exact trace in nats and how often 1.96 standard errors
cover it, on so many digits and four seeds of the probes, and the error of coarser tolerances.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import sde_diffusion as sd
from sde_diffusion.data import load as load_data
from sde_diffusion.evaluation.likelihoods import quantization_of
from sde_diffusion.evaluation.measurement import Estimate
from sde_diffusion.likelihood.bits import bits_per_dim
from sde_diffusion.likelihood.bounds import chain_bound, continuous_bound
from sde_diffusion.likelihood.dequantization import Quantization, TruncatedNormal
from sde_diffusion.losses.decoders import DiscretizedDecoder
from sde_diffusion.sdes import Chain
from sde_diffusion.training import open_checkpoint


def columns(workdir: str, options: argparse.Namespace) -> Iterator[tuple[str, object]]:
    """The names and the contents of a run's row."""
    checkpoint, start = open_checkpoint(workdir), time.perf_counter()
    denoiser, data = checkpoint.denoiser(), load_data(checkpoint.state["config"]["data"])
    if data.levels is None:
        raise ValueError(f"{workdir} was trained on {data.name}, which has no grey levels: bits per dimension are those of integers")
    held_out, train = data.held_out.up_to(options.n).x, data.train.up_to(options.n).x
    quantization = quantization_of(data.held_out.take().x, data.levels)
    flow: dict[str, Any] = {"quantization": quantization, "rtol": options.rtol, "atol": options.rtol}
    trace = {"method": "hutchinson", "probes": options.probes} if options.probes else {"method": "exact"}

    def bits(x: Tensor, law: str = "uniform", **more: Any) -> Tensor:
        return bits_per_dim(denoiser, x, dequantization=law, seeds=range(len(x)), **flow, **more).bits

    yield "run", workdir
    yield "step", checkpoint.step
    seen = bits(held_out, **trace)
    yield "uniform", cell(seen)
    if options.importance > 1:
        few = held_out[: options.importance_n]
        yield f"1 state, {len(few)} digits", cell(bits(few, method="exact"))
        yield f"{options.importance} states, {len(few)} digits", cell(bits(few, method="exact", importance=options.importance))
    yield "truncated", cell(bits(held_out, "truncated_normal", **trace))
    yield "bound", cell(bound(denoiser, held_out, quantization, options))
    trained = bits(train, **trace)
    yield "train", cell(trained)
    yield "gap", f"{seen.mean() - trained.mean():.3f} ± {1.96 * math.hypot(error(seen), error(trained)):.3f}"
    yield "s", f"{time.perf_counter() - start:.0f}"


SPENDINGS = [(1, "rademacher", 0), (1, "gaussian", 0), (4, "rademacher", 0), (4, "gaussian", 0), (4, "rademacher", 2), (8, "rademacher", 0),
             (8, "orthogonal", 0), (8, "rademacher", 2)]  # probes, their law, and how many of them are directions  # fmt: skip


def spending(workdir: str, options: argparse.Namespace) -> None:
    """Prints the error of each way to spend products, and of coarser tolerances, to the exact trace at `rtol`."""
    checkpoint = open_checkpoint(workdir)
    denoiser, data = checkpoint.denoiser(), load_data(checkpoint.state["config"]["data"])
    x = data.held_out.up_to(options.spend).x
    exact = sd.log_likelihood(denoiser, x, rtol=options.rtol, atol=options.rtol)
    print(f"exact trace at {options.rtol:g}: log p = {exact.nats.mean():.2f} nats, {exact.nfe.double().mean():.0f} calls\n")
    print("| products | law | directions | tolerance | calls | mean error | rms error | standard error | covered |\n" + "|---" * 9 + "|")
    for (probes, law, directions), rtol in [*((way, options.rtol) for way in SPENDINGS), ((64, "orthogonal", 0), 10 * options.rtol)]:
        found = [
            sd.log_likelihood(
                denoiser, x, method="hutchinson", probes=probes, distribution=law, directions=directions, rtol=rtol, atol=rtol,
                generator=torch.Generator().manual_seed(seed),
            )
            for seed in range(4 if probes < 64 else 1)
        ]  # fmt: skip
        off, errors = torch.stack([f.nats - exact.nats for f in found]), torch.stack([f.standard_error for f in found])
        figures = found[0].nfe.double().mean(), off.mean(), off.square().mean().sqrt(), errors.square().mean().sqrt()
        covered = (off.abs() <= 1.96 * errors).double().mean()
        print(
            "| " + " | ".join([str(probes), law, str(directions), f"{rtol:g}", *(f"{v:.3g}" for v in figures), f"{covered:.2f}"]) + " |",
            flush=True,
        )


def bound(denoiser: sd.Denoiser, x: Tensor, quantization: Quantization, options: argparse.Namespace) -> Tensor:
    """The variational bound in bits per dimension, (n,)."""
    if quantization.dequantized:
        decoder, t_min, offset = None, None, math.log2(quantization.width)
    else:  # from noise on that is well below the width: less of it costs a model that does not know the grid, and gains nothing
        decoder, t_min, offset = DiscretizedDecoder(quantization.width), TruncatedNormal().time(denoiser.sde, quantization, 0.0), 0.0
    generator = torch.Generator().manual_seed(0)
    if isinstance(denoiser.sde, Chain):
        steps = None if denoiser.sde.length <= options.samples else options.samples
        learned = isinstance(denoiser, sd.NetworkDenoiser) and denoiser.parameterization.learns_variance
        variance = "learned" if learned else "posterior"
        found = chain_bound(denoiser, x, steps=steps, draws=1, variance=variance, decoder=decoder, generator=generator)
    else:
        found = continuous_bound(denoiser, x, samples=options.samples, draws=1, t_min=t_min, decoder=decoder, generator=generator)
    return found.nats / (math.log(2) * x[0].numel()) - offset


def error(bits: Tensor) -> float:
    return bits.std().item() / math.sqrt(len(bits))


def cell(bits: Tensor) -> str:
    """Mean and 95 % interval."""
    low, high = Estimate(bits.mean().item(), error(bits), len(bits) - 1).interval()
    return f"{bits.mean():.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", nargs="+", help="of runs on quantised data")
    parser.add_argument("--n", type=int, default=360, help="digits of either part; default: %(default)s")
    parser.add_argument("--probes", type=int, default=1, help="of the trace, 0 for the exact one; default: %(default)s")
    parser.add_argument("--importance", type=int, default=1, help="states per digit, > 1 for two columns more; default: %(default)s")
    parser.add_argument("--importance-n", type=int, default=32, help="digits of these columns; default: %(default)s")
    parser.add_argument("--samples", type=int, default=200, help="noise levels of the bound; default: %(default)s")
    parser.add_argument("--rtol", type=float, default=1e-5, help="of the flow; default: %(default)s")
    parser.add_argument("--spend", type=int, default=0, help="digits of the comparison of probes; default: none, the table of runs")
    options = parser.parse_args()
    if options.spend:
        for workdir in options.workdirs:
            spending(workdir, options)
        return
    for i, workdir in enumerate(options.workdirs):
        names, cells = zip(*columns(workdir, options), strict=True)
        if i == 0:
            print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
