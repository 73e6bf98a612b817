"""Hands a trained denoiser on: as a folder of safetensors and JSON, or as a program that runs without this package.

sde-diffusion export --workdir runs/vp_digits --out vp_digits --metric "Frechet x floor=1.19" --license apache-2.0
sde-diffusion export --workdir runs/vp_digits --out vp_digits.onnx
"""

import argparse
from pathlib import Path

from sde_diffusion import interop, training
from sde_diffusion.denoisers import ModelCard
from sde_diffusion.denoisers.model_folder import DESCRIPTION
from sde_diffusion.interop.programs import SUFFIXES


def metric(text: str) -> tuple[str, str]:
    """NAME=VALUE; argparse turns the error into a message."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is no metric; write NAME=VALUE, such as FID=3.17")
    return name, value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a run, or of one of its checkpoints")
    parser.add_argument("--out", type=Path, required=True, help=f"a folder, or a file that ends in {' or '.join(SUFFIXES)}")
    parser.add_argument("--metric", type=metric, action="append", default=[], help="NAME=VALUE for the model card; may be repeated")
    parser.add_argument("--license", default="", help='for the model card, such as "apache-2.0"')
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is there")


def run(arguments: argparse.Namespace) -> None:
    if not arguments.overwrite and (arguments.out.is_file() or (arguments.out / DESCRIPTION).exists()):
        raise FileExistsError(f"{arguments.out} holds a model already; add --overwrite to replace it, or give another --out")
    checkpoint = training.open_checkpoint(arguments.workdir)
    denoiser, shape, config = checkpoint.denoiser(), checkpoint.state["data"]["shape"], checkpoint.state["config"]
    if arguments.out.suffix in SUFFIXES:
        if arguments.metric or arguments.license:
            raise ValueError(f"a program has no model card, got --metric or --license for {arguments.out}; give a folder")
        print(interop.export(denoiser, arguments.out, shape=shape, overwrite=arguments.overwrite))
        return
    low, high = checkpoint.state["data"]["range"]
    data = f"`{config['data']}`: samples of shape {tuple(shape)}, {low:g} to {high:g}."
    notes = f"Averaged weights after {checkpoint.state['step']} steps of {config['batch_size']} samples by `{config['loss']}`."
    card = ModelCard(data=data, license=arguments.license, metrics=dict(arguments.metric), notes=notes, shape=tuple(shape))
    print(denoiser.save_pretrained(arguments.out, card=card, overwrite=arguments.overwrite))
