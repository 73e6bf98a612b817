"""Measures samples of a trained denoiser against held-out data, and writes a report with pictures.

sde-diffusion evaluate --workdir runs/vp_digits --solver "DDIM(eta=0.0)" --steps 50 --n 720
sde-diffusion evaluate --workdir runs/vp_digits --solver auto --nfe 20 --n 720 --curve --out reports/vp_digits
sde-diffusion evaluate --workdir runs/vp_digits --likelihood --n 0
torchrun --nproc_per_node 4 -m sde_diffusion.cli.main evaluate --workdir runs/vp_digits --number 50000

--likelihood adds the bits per dimension (of continuous data, the nats) of held-out data; with --n 0 nothing is sampled and compared.
The samples stay in the folder samples/ beside report.md and report.json; a command that was interrupted goes on with them.
"""

import argparse
import dataclasses
import json
import math
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sde_diffusion import data, evaluation, expressions, training
from sde_diffusion.cli.report_pictures import draw_pictures
from sde_diffusion.cli.sample import draw_folder, launched, sampler_of_rank
from sde_diffusion.cli.sampler import Sampler, add_solver_arguments, number_of_classes
from sde_diffusion.evaluation.classes import class_counts
from sde_diffusion.evaluation.features import FeatureExtractor, Pixels
from sde_diffusion.evaluation.inception import Inception
from sde_diffusion.evaluation.levels import LevelLosses, level_losses
from sde_diffusion.evaluation.likelihoods import EXACT, PROBES, SAMPLES, HeldOutLikelihood, held_out_likelihood
from sde_diffusion.evaluation.measure import KNOWN, measure
from sde_diffusion.evaluation.measurement import Measurement
from sde_diffusion.evaluation.report import BIASED, LIKELIHOOD, METRIC_COLUMNS, CurvePoint, Report, likelihood_lines, metric_cells
from sde_diffusion.evaluation.shards import load_shards
from sde_diffusion.evaluation.transport import pot
from sde_diffusion.files import write_atomically
from sde_diffusion.likelihood.flow import LARGEST

FOLDER = "evaluation"  # in the workdir
FEATURES = ("auto", "pixels", "inception")
JSON, MARKDOWN = "report.json", "report.md"
LIMIT = 50_000  # of real samples of each part, as is usual for FID
CURVE_SOLVERS = ("auto", "DDIM()", "Heun()", "EulerMaruyama()")
CURVE_CALLS = (5, 8, 12, 20, 35, 50)


def names(text: str) -> tuple[str, ...]:
    """Metrics, "frechet,kid"; argparse turns the error into a message."""
    strangers = [name for name in text.split(",") if name not in KNOWN]
    if strangers:
        raise argparse.ArgumentTypeError(f"unknown metric {strangers[0]!r}; choose from {', '.join(KNOWN)}")
    return tuple(text.split(","))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_solver_arguments(parser, n=720)
    parser.add_argument("--out", type=Path, help=f"folder of the report; default: {FOLDER}/STEP-SOLVER in the workdir")
    parser.add_argument("--metrics", type=names, help="such as frechet,kid; default: those that suit the data")
    parser.add_argument("--features", choices=FEATURES, default=FEATURES[0], help="what images are compared in; default: what suits them")
    parser.add_argument("--resamples", type=int, default=100, help="random halves that make the intervals; default: %(default)s")
    parser.add_argument("--curve", action="store_true", help=f"measure {', '.join(CURVE_SOLVERS)} with few and many network calls, too")
    parser.add_argument("--curve-metric", type=names, help="default: the first distance among the metrics")
    parser.add_argument("--likelihood", action="store_true", help="measure the likelihood of held-out data, too; with --n 0, that alone")
    parser.add_argument("--likelihood-n", type=int, default=SAMPLES, help="held-out samples whose likelihood counts; default: %(default)s")
    parser.add_argument(
        "--likelihood-probes",
        type=int,
        help=f"random probes of the trace; 0: exact, a product for each dimension; default: exact up to {EXACT} dimensions, else {PROBES}",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there")


class Real(NamedTuple):
    """What samples are compared with: parts (n, *d) of the data, with their labels (n,) where there are any."""

    train: Tensor
    held_out: Tensor
    train_labels: Tensor | None
    held_out_labels: Tensor | None


def real_data(dataset: data.Data, classes: Sequence[int] | None = None) -> Real:
    """The real samples, at most 50 000 of each part, and of these classes only where some are given."""
    found = []
    for part in (dataset.train, dataset.held_out):
        x, labels, _ = part.up_to(LIMIT)
        if classes is not None and labels is not None:
            chosen = torch.isin(labels, torch.tensor(classes))
            x, labels = x[chosen], labels[chosen]
        found.append((x, labels))
    (train, train_labels), (held_out, held_out_labels) = found
    return Real(train, held_out, train_labels, held_out_labels)


def run(arguments: argparse.Namespace) -> None:
    if arguments.n < 2 and not (arguments.n == 0 and arguments.likelihood):
        raise ValueError(f"--n must be at least 2 (samples are compared with data), or 0 with --likelihood alone, got {arguments.n}")
    if arguments.n == 0 and arguments.curve:
        raise ValueError("--curve measures samples, and --n 0 draws none; leave one of them out")
    if arguments.likelihood_n < 2 or (arguments.likelihood_probes or 0) < 0:
        raise ValueError(
            f"--likelihood-n must be at least 2 and --likelihood-probes 0 or more, got {arguments.likelihood_n} and "
            f"{arguments.likelihood_probes}"
        )
    if "w2" in (arguments.metrics or ()):
        pot()  # what is missing is missed before any work
    checkpoint = training.open_checkpoint(arguments.workdir)
    out = arguments.out or checkpoint.path.parent.parent / FOLDER / f"{checkpoint.path.name}-{slug(arguments)}"
    if (out / JSON).exists() and not arguments.overwrite:
        raise FileExistsError(f"{out} holds a report; add --overwrite to replace it, or choose another --out")
    dataset = data.load(checkpoint.state["config"]["data"])  # what is missing is missed before any work
    if arguments.likelihood and arguments.likelihood_probes == 0 and math.prod(dataset.shape) > LARGEST:
        size = math.prod(dataset.shape)
        raise ValueError(f"--likelihood-probes 0 is the exact trace, of at most {LARGEST} dimensions, and samples have {size}; give 4")
    ranks, device = launched(arguments.device)
    source = sampler_of_rank(argparse.Namespace(**{**vars(arguments), "n": arguments.n or 1}), checkpoint, ranks, device)
    calls: list[int] = []
    started = time.perf_counter()
    drawn = draw_folder(arguments, source, out / "samples", ranks, calls=calls) if arguments.n else 0
    seconds = time.perf_counter() - started
    if ranks.rank > 0:
        return
    chosen = arguments.classes if isinstance(arguments.classes, tuple) else None
    real = real_data(dataset, chosen)
    if min(len(real.train), len(real.held_out)) < 2:
        raise ValueError(f"the data have fewer than 2 samples of the classes {chosen}; evaluate --classes all")
    samples = load_shards(out / "samples").samples if arguments.n else None
    described = _described(arguments, source, calls, drawn * ranks.number, seconds, ranks.number)
    counted = real._replace(train_labels=None, held_out_labels=None) if chosen is not None else real
    report = _measured(arguments, source, samples, counted, described, dataset)
    report = dataclasses.replace(report, losses=_losses(source, real))
    if arguments.likelihood:
        found = _likelihood(arguments, source, real, dataset)
        report = dataclasses.replace(report, likelihood=found, measurements=(*report.measurements, found.measurement()))
    if arguments.curve:
        report = dataclasses.replace(report, curve=_curve(arguments, source, real, report.measurements))
    out.mkdir(parents=True, exist_ok=True)
    report = dataclasses.replace(
        report, pictures=tuple(draw_pictures(report, out, samples, real.train, real.held_out, checkpoint.path.parent.parent / training.LOG))
    )
    write_atomically(out / MARKDOWN, report.to_markdown().encode())
    write_atomically(out / JSON, json.dumps(report.to_json(), indent=1).encode())
    if samples is not None:
        nfe = "-" if described["nfe"] is None else str(described["nfe"])
        print(evaluation.table(("solver", "NFE", "seconds", "samples"), [(arguments.solver, nfe, f"{seconds:.1f}", str(len(samples)))]))
        print("\n" + evaluation.table(METRIC_COLUMNS, [metric_cells(m) for m in report.measurements]))
        print("\nx floor: against the distance of real data to real data")
    if report.likelihood is not None:
        print("\n".join(("" if samples is not None else LIKELIHOOD, *likelihood_lines(report.likelihood))))
    print(out / MARKDOWN)


def slug(arguments: argparse.Namespace) -> str:
    """Words for a folder that name what was sampled, DDIM-eta=0.0-steps=50-seed=0-n=720, or likelihood-seed=0."""
    first, *names = ("likelihood", "ema", "classes", "seed")
    if arguments.n:
        first, *names = (arguments.solver, "steps", "nfe", "grid", "ema", "classes", "guidance", "seed", "n")
    parts = [first, *(f"{name}={value}" for name in names if (value := getattr(arguments, name)) is not None)]
    return re.sub(r"[^A-Za-z0-9.=]+", "-", "-".join(parts)).strip("-")[:120]


def hardware(device: torch.device) -> str:
    """What it ran on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {device.type}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"


def _described(
    arguments: argparse.Namespace, source: Sampler, calls: Sequence[int], drawn: int, seconds: float, processes: int
) -> dict[str, Any]:
    """What was run, for the report."""
    state = source.checkpoint.state
    settings = (
        source.settings if arguments.n else {**source.settings, "solver": "likelihood", "grid": None, "steps": None, "guidance": None}
    )
    return {
        "command": shlex.join(["sde-diffusion", *sys.argv[1:]]),
        "checkpoint": str(source.checkpoint.path),
        "workdir": str(source.checkpoint.path.parent.parent.resolve()),
        "step": state["step"],
        "ema": arguments.ema or "the first average",
        **{name: settings[name] for name in ("solver", "grid", "steps", "classes", "guidance", "seed")},
        "nfe": round(sum(calls) / len(calls)) if calls else None,
        "n": arguments.n,
        "batch": arguments.batch,
        "seconds": round(seconds, 2),
        "samples drawn in that time": min(drawn, arguments.n),
        "processes": processes,
        "hardware": hardware(source.denoiser.like.device),
        "versions": source.settings["versions"],
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _measured(
    arguments: argparse.Namespace, source: Sampler, samples: Tensor | None, real: Real, described: dict[str, Any], dataset: data.Data
) -> Report:
    found = [] if samples is None else _measure(arguments, source, samples, real, arguments.metrics, arguments.resamples)
    compared = {"name": dataset.name, "shape": list(dataset.shape), "train": len(real.train), "held_out": len(real.held_out)}
    config = source.checkpoint.state["config"]
    labels = real.train_labels if any(m.metric == "class_p" for m in found) else None
    classes = None if labels is None or samples is None else class_counts(samples, real.train, labels)
    return Report(described, compared, config, tuple(found), classes=classes)


def _measure(
    arguments: argparse.Namespace, source: Sampler, samples: Tensor, real: Real, metrics: Sequence[str] | None, resamples: int
) -> list[Measurement]:
    features: FeatureExtractor | None = None
    if arguments.features != FEATURES[0]:
        features = Pixels() if arguments.features == "pixels" else Inception(device=source.denoiser.like.device)
    return measure(
        samples,
        real.train,
        real.held_out,
        labels=real.train_labels,
        features=features,
        metrics=metrics,
        resamples=resamples,
        cache=source.checkpoint.path.parent.parent / FOLDER / "features",
    )


def _likelihood(arguments: argparse.Namespace, source: Sampler, real: Real, dataset: data.Data) -> HeldOutLikelihood:
    """Of the network without guidance, which has no density; by the data's labels, or by the null class where samples have none."""
    network = _unguided(source)
    cond = real.held_out_labels
    if source.labels is None:
        number = number_of_classes(network)
        cond = torch.full((len(real.held_out),), number) if number else None
    return held_out_likelihood(
        network,
        real.held_out,
        levels=dataset.levels,
        cond=cond,
        n=arguments.likelihood_n,
        probes=arguments.likelihood_probes,
        seed=arguments.seed,
        batch_size=arguments.batch,
    )


def _unguided(source: Sampler) -> Any:
    """The network alone, which guidance wraps."""
    return getattr(source.denoiser, "inner", source.denoiser)


def _losses(source: Sampler, real: Real) -> LevelLosses:
    """By noise level, of the network without guidance."""
    denoiser = _unguided(source)
    loss = expressions.build(source.checkpoint.state["config"]["loss"])
    told: dict[str, Any] = {} if source.labels is None else {"train_cond": real.train_labels, "held_out_cond": real.held_out_labels}
    return level_losses(denoiser, loss, real.train, real.held_out, **told)


def _curve(arguments: argparse.Namespace, source: Sampler, real: Real, measured: Sequence[Measurement]) -> tuple[CurvePoint, ...]:
    """Quality of several solvers with few and many network calls."""
    metric = next((m.metric for m in measured if m.metric in BIASED), measured[0].metric)  # one that has a floor to compare with
    if arguments.curve_metric:
        metric = arguments.curve_metric[0]
    points: dict[tuple[str, int], CurvePoint] = {}
    for text in CURVE_SOLVERS:
        solver = text if text == "auto" else expressions.build(text)
        for nfe in CURVE_CALLS:
            other, calls = dataclasses.replace(source, solver=solver, options={"nfe": nfe}), list[int]()
            chunks = [range(i, min(i + arguments.batch, arguments.n)) for i in range(0, arguments.n, arguments.batch)]
            samples = torch.cat([other.draw(chunk, calls=calls).cpu() for chunk in chunks])
            if not samples.isfinite().all():
                print(f"{text} with {nfe} calls: samples are not finite", file=sys.stderr)
                continue
            (m, *_) = _measure(arguments, source, samples, real, [metric], 2)
            points[text, calls[0]] = CurvePoint(text, calls[0], metric, m.value, m.floor)
            print(f"{text}, {calls[0]} calls: {metric} {m.value:.4g}", file=sys.stderr)
    return tuple(points.values())
