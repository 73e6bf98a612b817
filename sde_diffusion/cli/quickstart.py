"""Trains on handwritten digits, samples with five kinds of solver, prints one table: about seven minutes on two CPU cores.

sde-diffusion quickstart --workdir runs/quickstart --sde vp
"""

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

from sde_diffusion import data, evaluation, plotting, solvers, training
from sde_diffusion.cli.options import add_device, add_existing_run
from sde_diffusion.denoisers import Denoiser
from sde_diffusion.expressions import build

COLUMNS = ("solver", "NFE", "seconds", *evaluation.QUALITY_COLUMNS)
SDES = {"vp": "VPSDE()", "subvp": "SubVPSDE()", "ve": "VESDE(sigma_max=10.0)"}  # 9.6: the largest distance of two digits
FAST = 20  # --fast takes this many times fewer steps
FRAMES = 60  # of the film
SAMPLES = 720  # per solver; with 360, chance moves the ratio to the floor by 0.15
SHOWN = 36  # samples in a picture


class Entry(NamedTuple):
    """One row of the table: the picture's name, the solver, its number of steps (None: it adapts)."""

    name: str
    solver: str
    steps: int | None


ENTRIES = (
    Entry("euler_maruyama", "EulerMaruyama()", 500),
    Entry("predictor_corrector", "PredictorCorrector()", 250),  # two network calls per step
    Entry("ancestral", "Ancestral()", 1000),
    Entry("ddim", "DDIM()", 50),
    Entry("probability_flow_ode", "FinalDenoise(AdaptiveODE())", None),
)
FILMED = "euler_maruyama"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, default=Path("runs/quickstart"), help="default: %(default)s")
    parser.add_argument("--sde", choices=SDES, default="vp", help="forward process; default: %(default)s")
    parser.add_argument("--steps", type=int, help=f"training steps; default: {training.default_config().steps}")
    parser.add_argument("--n", type=int, default=SAMPLES, help="samples per solver; default: %(default)s")
    parser.add_argument("--fast", action="store_true", help=f"sample with {FAST} times fewer steps, to try the command out")
    parser.add_argument("--seed", type=int, default=0, help="of training and sampling; default: %(default)s")
    add_device(parser)
    add_existing_run(parser)


def run(arguments: argparse.Namespace) -> None:
    if arguments.n < 2:
        raise ValueError(f"--n must be at least 2 (samples are compared with data), got {arguments.n}")
    config = training.default_config()
    config.sde, config.seed = SDES[arguments.sde], arguments.seed
    if arguments.steps is not None:
        config.steps = arguments.steps
    workdir = arguments.workdir
    training.keep_freed_memory()
    job = training.prepare(config, workdir, resume=arguments.resume, overwrite=arguments.overwrite, device=arguments.device)
    denoiser = training.fit(job)
    plotting.loss_curve(workdir / training.LOG, workdir / "loss.png")
    rows = []
    for entry in ENTRIES:
        steps = max(2, entry.steps // FAST) if entry.steps and arguments.fast else entry.steps
        rows.append(_sample(entry, steps, denoiser, job.experiment.data, arguments))
    print(evaluation.table(COLUMNS, rows))
    print(f"x floor: against the distance of real digits to real ones; 1-NN acc: 0.5 is ideal\npictures in {workdir}")


def _sample(entry: Entry, steps: int | None, denoiser: Denoiser, dataset: data.Data, arguments: argparse.Namespace) -> tuple[str, ...]:
    """Samples with one solver, saves its picture and gives its row of the table."""
    every, nfe = max(1, (steps or 1) // FRAMES), 0
    states: list[torch.Tensor] = []

    def watch(step: solvers.Step) -> None:
        nonlocal nfe
        nfe = step.nfe
        if entry.name == FILMED and step.i % every == 0:
            scale = (denoiser.sde.alpha(step.t) ** 2 + denoiser.sde.sigma(step.t) ** 2).sqrt()
            states.append(step.x[:SHOWN].cpu() / scale)

    print(f"sampling with {entry.solver}", file=sys.stderr)
    generator = torch.Generator().manual_seed(arguments.seed)
    started = time.perf_counter()
    shape = (arguments.n, *dataset.shape)
    samples = solvers.sample(denoiser, build(entry.solver), shape=shape, steps=steps, generator=generator, progress=True, callback=watch)
    seconds = time.perf_counter() - started
    plotting.picture(samples[:SHOWN], arguments.workdir / f"{entry.name}.png")
    if states:
        plotting.film([*states, samples[:SHOWN].cpu()], arguments.workdir / "film.gif")
    train, held_out = dataset.train.take(), dataset.held_out.take()
    quality = evaluation.quality(samples.cpu(), train.x, held_out.x, labels=train.labels)
    return (entry.solver, str(nfe), f"{seconds:.1f}", *quality.cells())
