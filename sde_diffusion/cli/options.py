"""Options that several commands share."""

import argparse

import torch


def device(name: str) -> str:
    """A device that works here; argparse turns the error into a message."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled with CUDA
        raise argparse.ArgumentTypeError(f"device {name!r} is not available ({str(error).splitlines()[0]}); use cpu") from None
    return name


def add_device(parser: argparse.ArgumentParser, *, default: str | None = "cpu") -> None:
    help = "cpu, cuda, mps; default: " + (default or "the one that accelerate finds, and its processes")
    parser.add_argument("--device", type=device, default=default, help=help)


def add_existing_run(parser: argparse.ArgumentParser) -> None:
    """What to do with a run that the workdir holds already."""
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="continue the run in the workdir, if there is one")
    existing.add_argument("--overwrite", action="store_true", help="replace the run in the workdir")
