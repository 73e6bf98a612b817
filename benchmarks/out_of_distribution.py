"""Does a model of nine digits notice the tenth, and is its likelihood what notices?

    python benchmarks/out_of_distribution.py                                       (about 15 minutes, one busy thread)
    python benchmarks/out_of_distribution.py --digit 1 --seed 1 --workdir runs/without_1

Trains on scikit-learn's digits, dequantised, without one digit, and scores held-out images of the nine digits, all images of the tenth, and
strangers of other kinds: the nine at half contrast, blank, with shuffled pixels, and uniform noise. Columns: the area under the ROC curve
against the nine, with its 95 % interval (DeLong); 0.5 is chance, and below 0.5 the score prefers the strangers to the known: the inversion
of likelihoods (Nalisnick et al. 2019). PCA is fitted to the same training data.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

import sde_diffusion as sd
from sde_diffusion import evaluation, training
from sde_diffusion.data.base import Data
from sde_diffusion.data.embedded import DIGIT_LEVELS, Digits
from sde_diffusion.data.tensors import TensorSamples
from sde_diffusion.evaluation.out_of_distribution import auroc, pca_error, reconstruction_error, round_trip_error
from sde_diffusion.likelihood.bits import bits_per_dim
from sde_diffusion.likelihood.dequantization import Quantization

NOISES = (0.5, 1.0, 2.0)  # sigma/alpha of the reconstruction
COMPONENTS = (8, 16, 32)
PROBES = 4
TOLERANCE = 1e-4  # of the flow


def without(data: Data, digit: int) -> tuple[Data, Tensor]:
    """The data without a digit, and the integers (n, 1, 8, 8) of that digit in both parts."""
    parts, left_out = [], []
    for part in (data.train, data.held_out):
        assert isinstance(part, TensorSamples)
        assert part.labels is not None
        known = part.labels[part.rows] != digit
        parts.append(TensorSamples(part.stored, part.labels, rows=part.rows[known], pixels=part.pixels))
        left_out.append(part.stored[part.rows[~known]])
    return Data(parts[0], parts[1], f"{data.name} without {digit}"), torch.cat(left_out)


def integers(samples: TensorSamples) -> Tensor:
    return samples.stored[samples.rows]


def strangers(known: Tensor, left_out: Tensor, digit: int, seed: int) -> dict[str, Tensor]:
    """Integers (n, 1, 8, 8) by name."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(64, generator=generator) for _ in known])
    return {
        f"digit {digit}": left_out,
        "half contrast": known // 2,
        "blank": torch.zeros_like(known),
        "shuffled": known.flatten(1).gather(1, order).view_as(known),
        "noise": torch.randint(DIGIT_LEVELS, known.shape, generator=generator, dtype=known.dtype),
    }


def scores(denoiser: sd.Denoiser, train: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Functions of integers (n, 1, 8, 8), by name."""
    quantization = Quantization(DIGIT_LEVELS)
    values = quantization.values  # the middles of the bins, which dequantised data surround
    like = denoiser.like.dtype

    def bits(k: Tensor) -> Tensor:
        options = {"rtol": TOLERANCE, "atol": TOLERANCE, "method": "hutchinson", "probes": PROBES}
        return bits_per_dim(denoiser, k, quantization=quantization, seeds=range(len(k)), **options).bits

    found: dict[str, Callable[[Tensor], Tensor]] = {"bits/dim": bits}
    for noise in NOISES:
        t = float(denoiser.sde.t_of_log_snr(-torch.tensor(noise, dtype=torch.float64).log()))
        found[f"reconstruction, sigma/alpha={noise:g}"] = lambda k, t=t: reconstruction_error(
            denoiser, values(k).to(like), t=t, seeds=range(len(k))
        )
    for steps in (5, 10):
        found[f"round trip, {steps} steps"] = lambda k, n=steps: round_trip_error(denoiser, values(k).to(like), steps=n)
    for components in COMPONENTS:
        found[f"PCA, {components} components"] = lambda k, n=components: pca_error(values(train), values(k), components=n)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digit", type=int, default=8, choices=range(10), help="that is left out; default: %(default)s")
    parser.add_argument("--steps", type=int, default=training.default_config().steps, help="of training; default: %(default)s")
    parser.add_argument("--width", type=int, default=32, help="of the network; default: %(default)s")
    parser.add_argument("--n", type=int, default=128, help="most images of each kind; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of training and scores; default: %(default)s")
    parser.add_argument("--workdir", type=Path, help="of the run; default: runs/out_of_distribution/DIGIT-SEED")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the workdir, or use it")
    arguments = parser.parse_args(argv)

    data, left_out = without(Digits(dequantize=True).load(), arguments.digit)
    config = training.default_config()
    config.update(steps=arguments.steps, seed=arguments.seed, data=data.name)
    config.network = f"UNet(UNetConfig(channels=1, width={arguments.width}, multipliers=(1, 2)))"
    workdir = arguments.workdir or Path("runs/out_of_distribution") / f"{arguments.digit}-{arguments.seed}"
    started = time.perf_counter()
    denoiser = training.train(training.Experiment.build(config, data=data), workdir, resume=arguments.resume)
    seconds = time.perf_counter() - started
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {data.name}, {arguments.steps} steps, seed {arguments.seed}, "
          f"{seconds:.0f} s of training")  # fmt: skip

    train, known = integers(data.train), integers(data.held_out)[: arguments.n]
    kinds = {name: k[: arguments.n] for name, k in strangers(known, left_out, arguments.digit, arguments.seed).items()}
    rows = []
    for name, score in scores(denoiser, train).items():
        started = time.perf_counter()
        own = score(known)
        areas = {kind: auroc(own, score(k)) for kind, k in kinds.items()}
        cells = (f"{a.area:.3f} ({a.low:.2f} .. {a.high:.2f})" for a in areas.values())
        rows.append((name, f"{own.mean().item():.4g}", *cells, f"{time.perf_counter() - started:.1f}"))
    print(evaluation.table(("score", "known", *(f"{name}, {len(k)}" for name, k in kinds.items()), "seconds"), rows))
    print(f"\nknown: the mean score of {len(known)} held-out images; then areas, and the number of images of each kind")
    return 0


if __name__ == "__main__":
    sys.exit(main())
