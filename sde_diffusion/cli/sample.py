"""Draws samples from a trained denoiser.

sde-diffusion sample --workdir runs/vp_digits --solver "DDIM(eta=0.0)" --steps 50 --n 64 --seed 0 --out samples.png
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sde_diffusion
from sde_diffusion import expressions, plotting, solvers, training
from sde_diffusion.cli.options import add_device
from sde_diffusion.solvers.sampling import AUTO_NFE

FORMATS = (".png", ".npz")
SOLVER_HELP = (
    'an expression, such as "EulerMaruyama(eta=0.5)" or "Ancestral(\'analytic\', errors)" with the checkpoint\'s own errors; auto; '
    "or fitted, with the table of --nfe calls that sde-diffusion fit has made for the checkpoint"
)


def add_solver_arguments(parser: argparse.ArgumentParser, *, n: int) -> None:
    """What sample and evaluate share: which denoiser, how it is sampled."""
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a run, or of one of its checkpoints")
    parser.add_argument("--solver", default="DDIM(eta=0.0)", help=SOLVER_HELP)
    parser.add_argument("--steps", type=int, help="number of steps; default: the solver's own")
    parser.add_argument("--nfe", type=int, help=f"most network calls, instead of --steps; {AUTO_NFE} for --solver auto")
    parser.add_argument("--grid", help='times of the steps: "karras(rho=7.0)", or a tuple of decreasing times in [0, 1]')
    parser.add_argument("--n", type=int, default=n, help="number of samples")
    parser.add_argument("--seed", type=int, default=0)
    add_device(parser)


def draw(
    arguments: argparse.Namespace, checkpoint: training.Checkpoint, *, callback: Callable[[solvers.Step], None] | None = None
) -> torch.Tensor:
    """Samples (n, *d) of a checkpoint's averaged weights, as the arguments say.

    Raises:
        ValueError: for a solver or grid that is unknown or does not fit.
    """
    if arguments.n < 1:
        raise ValueError(f"--n must be positive, got {arguments.n}")
    names = {name: getattr(sde_diffusion, name) for name in sde_diffusion.__all__}
    if "errors" in f"{arguments.solver} {arguments.grid}":
        names["errors"] = checkpoint.errors()
    grid = None if arguments.grid is None else expressions.build(arguments.grid, names)
    options: dict[str, Any] = {"steps": arguments.steps, "nfe": arguments.nfe, "grid": grid}
    solver: Any = arguments.solver
    if solver == "fitted":
        solver, options = _fitted(checkpoint, arguments), {"grid": grid}
    elif solver != "auto":
        solver = expressions.build(solver, names)
    if not (solver == "auto" or isinstance(solver, solvers.Solver)):
        raise ValueError(f"--solver {arguments.solver} is not a solver; use auto, fitted, or one such as DDIM(eta=0.0)")
    denoiser = checkpoint.denoiser().to(arguments.device)
    generator = torch.Generator().manual_seed(arguments.seed)
    shape = (arguments.n, *checkpoint.state["data"]["shape"])
    if solver == "auto":
        nfe = arguments.nfe or AUTO_NFE
        taken = repr(denoiser.fitted[nfe]) if nfe in denoiser.fitted else "{} on {}, {} steps".format(*solvers.auto(denoiser.sde, nfe))
        print(f"auto: {taken}", file=sys.stderr)
    return solvers.sample(denoiser, solver, shape=shape, **options, generator=generator, progress=True, callback=callback)


def _fitted(checkpoint: training.Checkpoint, arguments: argparse.Namespace) -> solvers.FittedSolver:
    """The checkpoint's table for --nfe network calls or, which is the same, --steps."""
    tables = checkpoint.fitted()
    asked = {n for n in (arguments.nfe, arguments.steps) if n is not None}
    present = f"{checkpoint.path} has tables for {', '.join(map(str, tables)) or 'no'} calls"
    if len(asked) != 1:
        raise ValueError(f"--solver fitted needs a number of calls, --nfe or --steps; {present}")
    (nfe,) = asked
    if nfe not in tables:
        raise ValueError(f"no solver is fitted for {nfe} calls, {present}; run sde-diffusion fit --workdir {arguments.workdir} --nfe {nfe}")
    return tables[nfe]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_solver_arguments(parser, n=64)
    parser.add_argument("--out", type=Path, required=True, help="picture (.png) or array named samples (.npz) to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")


def run(arguments: argparse.Namespace) -> None:
    out = arguments.out
    if out.suffix not in FORMATS:
        raise ValueError(f"cannot write {out}: the name must end with {' or '.join(FORMATS)}")
    if out.exists() and not arguments.overwrite:
        raise FileExistsError(f"{out} exists; add --overwrite to replace it or choose another --out")
    samples = draw(arguments, training.open_checkpoint(arguments.workdir))
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        plotting.picture(samples, out)
    else:
        np.savez(out, samples=samples.cpu().numpy())
    print(out)
