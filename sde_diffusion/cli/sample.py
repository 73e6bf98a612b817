"""Draws samples from a trained denoiser: into one file, or any number of them into a folder.

sde-diffusion sample --workdir runs/vp_digits --solver "DDIM(eta=0.0)" --steps 50 --n 64 --seed 0 --out samples.png
sde-diffusion sample --workdir runs/vp_digits --nfe 20 --solver auto --n 50000 --batch 256 --out samples/
torchrun --nproc_per_node 4 -m sde_diffusion.cli.main sample --workdir runs/vp_digits --number 50000 --out samples/

Sample i has noise of its own: it is the same in a file, in a folder, with --indices, and whatever the number of processes.
The bytes of a folder do not depend on the processes; another --batch changes the last bits only, unless a solver mixes its batch.
"""

import argparse
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from sde_diffusion import plotting, training
from sde_diffusion.cli.sampler import Sampler, add_solver_arguments, numbers, sampler
from sde_diffusion.evaluation.shards import ALONE, FORMATS, Ranks, write_shards
from sde_diffusion.files import write_atomically

SUFFIXES = (".png", ".npz")


def indices(text: str) -> tuple[int, ...]:
    """Numbers of samples, "17,40000"; argparse turns the error into a message."""
    return numbers(text, "numbers of samples; write 17,40000")


def launched(device: str) -> tuple[Ranks, str | torch.device]:
    """This process among those of torchrun or accelerate launch, and its device; one process of one where nobody launched it."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return ALONE, device
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    own = state.device if device == "cuda" else device
    return Ranks(state.process_index, state.num_processes, state.wait_for_everyone), own


def sampler_of_rank(arguments: argparse.Namespace, checkpoint: training.Checkpoint, ranks: Ranks, device: str | torch.device) -> Sampler:
    """The sampler, on rank 0 first: it may measure the checkpoint's errors, which the others then read."""
    if ranks.rank > 0:
        ranks.wait()
    source = sampler(arguments, checkpoint, device=device)
    if ranks.rank == 0:
        ranks.wait()
    return source


def draw_folder(
    arguments: argparse.Namespace, source: Sampler, folder: Path, ranks: Ranks, *, format: str = "npz", calls: list[int] | None = None
) -> int:
    """Draws what a folder of samples lacks, and returns how many this process drew."""
    first = range(0, arguments.n, arguments.batch * ranks.number)  # of this process's chunks, were it rank 0
    mine = sum(min(arguments.batch, arguments.n - i) for i in first)
    several = arguments.n > arguments.batch
    with tqdm(total=mine, desc="sampling", unit="sample", disable=ranks.rank > 0 or not several) as bar:
        return write_shards(
            folder,
            lambda chunk: source.draw(chunk, calls=calls, progress=not several),
            n=arguments.n,
            settings=source.settings,
            batch=arguments.batch,
            format=format,
            labels=source.classes,
            ranks=ranks,
            overwrite=arguments.overwrite,
            made={"checkpoint": str(source.checkpoint.path), "step": source.checkpoint.state["step"]},
            progress=bar.update,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_solver_arguments(parser, n=64)
    parser.add_argument("--indices", type=indices, help="draw just these samples into a file, such as 17,40000: as of --n, up to rounding")
    parser.add_argument(
        "--out", type=Path, required=True, help="picture (.png), array named samples (.npz), or a folder, which is continued"
    )
    parser.add_argument("--format", choices=FORMATS, default="npz", help="of the files in a folder; default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")


def _check_picture(shape: Sequence[int], out: Path, *, points: bool) -> None:
    """Raises ValueError for samples that have no picture, before they are drawn."""
    image = len(shape) == 3 and shape[0] in (1, 3)
    if not (image or (points and tuple(shape) == (2,))):
        raise ValueError(f"samples of shape {tuple(shape)} have no picture to write to {out}; write .npz, or a folder with --format npz")


def run(arguments: argparse.Namespace) -> None:
    out = arguments.out
    if not out.suffix or out.is_dir():
        if arguments.indices is not None:
            raise ValueError(f"--indices go into one file, got the folder {out}; give --out some.npz or some.png")
        ranks, device = launched(arguments.device)
        checkpoint = training.open_checkpoint(arguments.workdir)
        if arguments.format == "png":
            _check_picture(checkpoint.state["data"]["shape"], out, points=False)
        source = sampler_of_rank(arguments, checkpoint, ranks, device)
        draw_folder(arguments, source, out, ranks, format=arguments.format)
        if ranks.rank == 0:
            print(out)
        return
    if out.suffix not in SUFFIXES:
        raise ValueError(f"cannot write {out}: the name must end with {' or '.join(SUFFIXES)}, or be that of a folder")
    if out.exists() and not arguments.overwrite:
        raise FileExistsError(f"{out} exists; add --overwrite to replace it or choose another --out")
    checkpoint = training.open_checkpoint(arguments.workdir)
    if out.suffix == ".png":
        _check_picture(checkpoint.state["data"]["shape"], out, points=True)
    source = sampler(arguments, checkpoint)
    wanted = arguments.indices or range(arguments.n)
    chunks = [wanted[i : i + arguments.batch] for i in range(0, len(wanted), arguments.batch)]
    samples = torch.cat([source.draw(chunk, progress=True).cpu() for chunk in chunks])
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        plotting.picture(samples, out)
    else:
        arrays: dict[str, Any] = {"samples": samples.numpy(), "indices": np.array(wanted)}
        labels = source.classes(wanted)
        content = io.BytesIO()
        np.savez(content, **arrays if labels is None else {**arrays, "labels": labels.numpy()})
        write_atomically(out, content.getvalue())
    print(out)
