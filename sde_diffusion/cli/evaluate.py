"""Measures samples of a trained denoiser against held-out data.

sde-diffusion evaluate --workdir runs/vp_digits --solver "DDIM(eta=0.0)" --steps 50 --n 720
"""

import argparse
import time

from sde_diffusion import evaluation, training
from sde_diffusion.cli.sample import add_solver_arguments, draw
from sde_diffusion.solvers import Step

COLUMNS = ("solver", "NFE", "seconds", *evaluation.QUALITY_COLUMNS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_solver_arguments(parser, n=720)


def run(arguments: argparse.Namespace) -> None:
    checkpoint = training.open_checkpoint(arguments.workdir)
    dataset = training.load(checkpoint.state["config"]["data"])
    nfe = 0

    def watch(step: Step) -> None:
        nonlocal nfe
        nfe = step.nfe

    started = time.perf_counter()
    samples = draw(arguments, checkpoint, callback=watch)
    seconds = time.perf_counter() - started
    quality = evaluation.quality(samples.cpu(), dataset.train, dataset.held_out, labels=dataset.train_labels)
    print(evaluation.table(COLUMNS, [(arguments.solver, str(nfe), f"{seconds:.1f}", *quality.cells())]))
