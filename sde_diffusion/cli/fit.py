"""Fits solvers of few network calls to a trained denoiser.

sde-diffusion fit --workdir runs/vp_digits --nfe 5,8,10,15,20
"""

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from sde_diffusion import evaluation, expressions, solvers, training
from sde_diffusion.cli.options import add_device
from sde_diffusion.solvers.trajectories import NODES

COLUMNS = ("calls", "base rms", "median", "fitted rms", "median", "rms ratio", "seconds", "base")
KEPT = "kept the base"


def budgets(text: str) -> list[int]:
    """Numbers of network calls, "5,8"; argparse turns the error into a message."""
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers; write 5,8,10") from None
    if not 1 <= numbers[0] <= numbers[-1] <= NODES:
        raise argparse.ArgumentTypeError(f"network calls must be 1 to {NODES}, got {text}; with more, use --solver auto")
    return numbers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a run, or of one of its checkpoints")
    parser.add_argument("--nfe", type=budgets, default="5,8,10,15,20", help="network calls, one table each; default: %(default)s")
    parser.add_argument("--trajectories", type=int, default=128, help="accurate paths to fit to; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the paths' starts; default: %(default)s")
    parser.add_argument("--iterations", type=int, default=100, help="of the refinement, at most; default: %(default)s")
    parser.add_argument("--base", help="solver to beat, an expression; default: the one that auto takes")
    parser.add_argument("--grid", help='its grid, such as "karras(rho=7.0)"; default: its own')
    parser.add_argument("--overwrite", action="store_true", help="replace tables that are there, and other trajectories")
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    if arguments.iterations < 1:
        raise ValueError(f"--iterations must be positive, got {arguments.iterations}")
    if arguments.trajectories < 4:
        raise ValueError(
            f"--trajectories must be at least 4 (a quarter is held out), got {arguments.trajectories}; 128 are enough for most"
        )
    checkpoint = training.open_checkpoint(arguments.workdir)
    denoiser = checkpoint.denoiser().to(arguments.device)
    base, grid = (None if text is None else expressions.build(text) for text in (arguments.base, arguments.grid))
    for option, value, kind in (("--base", base, solvers.Solver), ("--grid", grid, solvers.Grid)):
        if not (value is None or isinstance(value, kind)):
            raise ValueError(
                f"{option} {getattr(arguments, option[2:])} is no {kind.__name__.lower()}; write --base 'DDIM()' or --grid 'karras()'"
            )
    present = [nfe for nfe in arguments.nfe if nfe in denoiser.fitted]
    if present and not arguments.overwrite:
        missing = _list(nfe for nfe in arguments.nfe if nfe not in present)
        cure = f"fit the others with --nfe {missing}, or add" if missing else "add"
        raise ValueError(f"{checkpoint.path} has tables for {_list(present)} calls already; {cure} --overwrite to replace them")
    tqdm.write(f"{arguments.trajectories} trajectories: solving them, or reading those that the checkpoint has", file=sys.stderr)
    started = time.perf_counter()
    trajectories = checkpoint.trajectories(
        arguments.trajectories, seed=arguments.seed, device=arguments.device, overwrite=arguments.overwrite
    )
    tqdm.write(f"{trajectories} in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    rows = []
    for nfe in tqdm(arguments.nfe, desc="fitting", unit="budget"):
        started = time.perf_counter()
        fitted = solvers.fit(denoiser, nfe, base=base, grid=grid, trajectories=trajectories, iterations=arguments.iterations, progress=True)
        checkpoint.keep_fitted(nfe, fitted, overwrite=arguments.overwrite)
        rows.append(row(nfe, fitted, time.perf_counter() - started))
    print(evaluation.table(COLUMNS, rows))
    example = f"--solver fitted --nfe {arguments.nfe[0]} --out samples.png"
    print(f"errors on held-out paths\nsde-diffusion sample --workdir {arguments.workdir} {example}")


def row(nfe: int, fitted: solvers.FittedSolver, seconds: float) -> tuple[str, ...]:
    """Of the table that is printed."""
    errors = fitted.errors
    ratio = f"{errors.rms / errors.base_rms:.2g}" if fitted.improved else KEPT
    return (str(nfe), *(f"{error:.3g}" for error in errors), ratio, f"{seconds:.0f}", fitted.base)


def _list(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))
