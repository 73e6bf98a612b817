"""A sampler by the words of the command line: which weights of a checkpoint, which solver, which classes, which seed.

Sample i of --seed s is drawn with the noise of seed 1 000 000 s + i, and of the class i mod k where k classes are given, so that it is one
function of (s, i), and the samples of two seeds have nothing in common.
"""

import argparse
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sde_diffusion import expressions, solvers, training
from sde_diffusion.cli.options import add_device
from sde_diffusion.denoisers import ClassifierFreeGuidance, Denoiser, NetworkDenoiser
from sde_diffusion.solvers.sampling import AUTO_NFE

BATCH = 256  # samples that are drawn together
NONE = "none"  # of --classes and --ema
SPACING = 1_000_000  # between the seeds of sample 0 of --seed 0, 1, ...: more than the samples of one seed
SOLVER_HELP = (
    'an expression, such as "EulerMaruyama(eta=0.5)" or "Ancestral(\'analytic\', errors)" with the checkpoint\'s own errors; auto; '
    "or fitted, with the table of --nfe calls that sde-diffusion fit has made for the checkpoint"
)


def classes(text: str) -> tuple[int, ...] | str:
    """ "all", "none" or labels, "3" or "0,1"; argparse turns the error into a message."""
    if text in ("all", NONE):
        return text
    return numbers(text, "labels; write 3, or 0,1, or all")


def numbers(text: str, meant: str) -> tuple[int, ...]:
    """Whole numbers with commas between them; argparse turns the error into a message."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of {meant}")
    return tuple(map(int, parts))


def add_solver_arguments(parser: argparse.ArgumentParser, *, n: int) -> None:
    """What sample and evaluate share: which denoiser, how it is sampled."""
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a run, or of one of its checkpoints")
    parser.add_argument("--ema", help="which averaged weights: a decay of the run, such as 0.9999, or a width, such as 0.1; none: the last")
    parser.add_argument("--solver", default="DDIM(eta=0.0)", help=SOLVER_HELP)
    parser.add_argument("--steps", type=int, help="number of steps; default: the solver's own")
    parser.add_argument("--nfe", type=int, help=f"most network calls, instead of --steps; {AUTO_NFE} for --solver auto")
    parser.add_argument("--grid", help='times of the steps: "karras(rho=7.0)", or a tuple of decreasing times in [0, 1]')
    parser.add_argument(
        "--n", "--number", type=int, default=n, help="number of samples; default: %(default)s (torchrun takes --n for its own)"
    )
    parser.add_argument("--batch", type=int, default=BATCH, help="samples that are drawn together; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help=f"sample i has the noise of seed {SPACING} times this, plus i")
    parser.add_argument("--classes", type=classes, help="of a conditional model: labels that the samples take in turn, or all, or none")
    parser.add_argument("--guidance", type=float, help="weight of the classes, 1 is none (classifier-free guidance)")
    add_device(parser)


@dataclass(frozen=True)
class Sampler:
    """A checkpoint's denoiser with the solver that the arguments name: sample i of a seed is one function of i.

    Args:
        checkpoint: where it comes from.
        denoiser: on its device, guided where that was asked for.
        solver: a solver or "auto".
        options: of `solvers.sample`: steps, nfe, grid.
        seed: of the samples; sample i has the noise of seed SPACING * seed + i.
        labels: that the samples take in turn; None without classes.
        settings: all that the samples depend on, as JSON.
    """

    checkpoint: training.Checkpoint
    denoiser: Denoiser
    solver: solvers.Solver | str
    options: dict[str, Any]
    seed: int
    labels: tuple[int, ...] | None
    settings: dict[str, Any]

    def classes(self, indices: Sequence[int]) -> Tensor | None:
        """The labels (b,) of the samples of these indices."""
        return None if self.labels is None else torch.tensor([self.labels[i % len(self.labels)] for i in indices])

    def draw(self, indices: Sequence[int], *, progress: bool = False, calls: list[int] | None = None) -> Tensor:
        """The samples (b, *d) of these indices; the number of network calls is appended to `calls`."""
        shape, labels = (len(indices), *self.checkpoint.state["data"]["shape"]), self.classes(indices)
        cond = None if labels is None else labels.to(self.denoiser.like.device)
        nfe = 0

        def watch(step: solvers.Step) -> None:
            nonlocal nfe
            nfe = step.nfe

        seeds = [SPACING * self.seed + i for i in indices]
        samples = solvers.sample(
            self.denoiser, self.solver, shape=shape, seeds=seeds, cond=cond, progress=progress, callback=watch, **self.options
        )
        if calls is not None:
            calls.append(nfe)
        return samples


def sampler(arguments: argparse.Namespace, checkpoint: training.Checkpoint, *, device: str | torch.device | None = None) -> Sampler:
    """The sampler that the arguments describe.

    Raises:
        ValueError: for a solver, grid or classes that are unknown or do not fit.
    """
    for option in ("n", "batch"):
        if getattr(arguments, option) < 1:
            raise ValueError(f"--{option} must be positive, got {getattr(arguments, option)}")
    device = arguments.device if device is None else device
    names = expressions.public_names()
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
    network = checkpoint.denoiser(ema=average(arguments.ema, checkpoint)).to(device)
    labels = _labels(arguments, network, checkpoint)
    denoiser: Denoiser = network
    if arguments.guidance is not None:
        denoiser = _guided(arguments, network, checkpoint)
    taken = repr(solver)
    if solver == "auto":
        nfe = arguments.nfe or AUTO_NFE
        taken = repr(denoiser.fitted[nfe]) if nfe in denoiser.fitted else "{} on {}, {} steps".format(*solvers.auto(denoiser.sde, nfe))
        print(f"auto: {taken}", file=sys.stderr)
    settings = {
        "weights": {name: digest for name, digest in checkpoint.state["sha256"].items() if name != "optimizer"},
        "ema": arguments.ema,
        "solver": taken,
        "grid": arguments.grid,
        "steps": arguments.steps,
        "nfe": arguments.nfe,
        "seed": arguments.seed,
        "classes": None if labels is None else list(labels),
        "guidance": arguments.guidance,
        "device": torch.device(device).type,
        "versions": versions(),
    }
    return Sampler(checkpoint, denoiser, solver, options, arguments.seed, labels, settings)


def average(text: str | None, checkpoint: training.Checkpoint) -> bool | str | float:
    """What --ema means: the first average, the last weights, an average by its name, or by its width."""
    if text is None or text == NONE:
        return text is None
    if text in checkpoint.averages:
        return text
    try:
        return float(text)
    except ValueError:
        return text


def versions() -> dict[str, str]:
    """Of what decides on the bits of a sample."""
    from importlib.metadata import version

    return {"sde_diffusion": version("sde_diffusion"), "torch": torch.__version__, "python": platform.python_version()}


def number_of_classes(denoiser: NetworkDenoiser) -> int:
    """That the network was built with, which is also the index of the null class; 0: it takes no labels."""
    network = denoiser.network
    described = (getattr(network, "config", None), getattr(network, "embed", None), network)  # UNet and DiT; MLP; the user's own
    numbers = (getattr(part, "classes", None) for part in described)
    return next((number for number in numbers if isinstance(number, int)), 0)


def _labels(arguments: argparse.Namespace, denoiser: NetworkDenoiser, checkpoint: training.Checkpoint) -> tuple[int, ...] | None:
    """The labels that samples take in turn."""
    number, config = number_of_classes(denoiser), checkpoint.state["config"]
    asked = arguments.classes
    if asked is None:
        if config.get("conditional", False):
            cure = ", or none for samples of no class" if config.get("label_dropout") else ""
            raise ValueError(f"{checkpoint.path} was trained on {number} classes; say which, --classes all or --classes 3{cure}")
        return None
    if asked == NONE:
        if config.get("conditional", False) and not config.get("label_dropout"):
            raise ValueError("the network always was told a class, so --classes none means nothing to it; train it with label_dropout=0.1")
        return None
    if not number:
        raise ValueError(f"the network of {checkpoint.path} takes no classes ({config['network']}); leave --classes out")
    if not config.get("conditional", True):
        raise ValueError(f"the network of {checkpoint.path} was never told a class (config.conditional is False); leave --classes out")
    labels = tuple(range(number)) if asked == "all" else asked
    if max(labels) >= number:
        raise ValueError(f"--classes must lie in 0..{number - 1}, got {max(labels)}")
    return labels


def _guided(arguments: argparse.Namespace, denoiser: NetworkDenoiser, checkpoint: training.Checkpoint) -> Denoiser:
    if arguments.classes in (None, NONE):
        raise ValueError(f"--guidance {arguments.guidance:g} strengthens classes, and none are given; add --classes all")
    if checkpoint.state["config"].get("label_dropout") == 0:
        raise ValueError("guidance needs a network that knows samples of no class; train it with label_dropout=0.1")
    return ClassifierFreeGuidance(denoiser, arguments.guidance, null=number_of_classes(denoiser)).eval()


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
