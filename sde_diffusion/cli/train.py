"""Trains a denoiser from a configuration file.

sde-diffusion train --config configs/vp_digits.py --config.lr=1e-3 --workdir runs/vp_digits
accelerate launch -m sde_diffusion.cli.main train --config configs/ddpmpp_cifar10.py:subvp --workdir runs/subvp    (several processes, FSDP)

What follows the colon is the file's own: get_config("subvp") is called.
"""

import argparse
import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from sde_diffusion import training
from sde_diffusion.cli.options import add_device, add_existing_run


def read_config(argv: Sequence[str]) -> ConfigDict:
    """The configuration of `--config FILE --config.field=value ...`, on flags of its own, not absl's global ones.

    Raises:
        ValueError: for a missing file, a variant that the file does not have, an unknown field and a value of the wrong type.
    """
    strangers = [argument for argument in argv if argument.startswith("-") and not argument.startswith("--config")]
    if strangers:
        raise ValueError(f"unknown option {strangers[0]}; see sde-diffusion train --help")
    values, argv = flags.FlagValues(), ["train", *argv]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        surplus, config = values(argv)[1:], values.config
        fields = list(config or ())  # a file that could not be loaded raises here
    except AttributeError as error:
        known = sorted(training.default_config())
        name = next((name for name in re.findall(r"--config\.(\w+)", " ".join(argv)) if name not in known), str(error))
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"the fields are {', '.join(known)}"
        raise ValueError(f"the configuration has no field {name!r}; {hint}") from None
    except flags.Error as error:
        raise ValueError(_unreadable(str(error))) from None
    except OSError as error:
        raise ValueError(
            f"cannot read the configuration ({str(error).splitlines()[-1].strip()}); give an existing file such as configs/vp_digits.py"
        ) from None
    if not fields or surplus:
        raise ValueError(f"give a configuration file, --config configs/vp_digits.py, got {' '.join(surplus) or 'none'}")
    return config


def _unreadable(message: str) -> str:
    """What absl says of a flag in one line; of a file that raised an error, that error, not its traceback."""
    found = re.match(r"flag --config=(.*?): Error whilst parsing config file:\n(.*)\Z", message, re.DOTALL)
    if found is None:
        return f"{message}; write --config FILE --config.field=value"
    path, traceback = found[1], found[2]
    error = traceback.strip().splitlines()[-1]
    if "get_config() takes 0 positional arguments" in error:
        return f"{path.rpartition(':')[0]} has no variants, got {path}; leave out what follows the colon"
    return f"cannot read the configuration {path} ({error})"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="folder for checkpoints and the log")
    add_device(parser, default=None)
    add_existing_run(parser)
    parser.epilog = "--config FILE or FILE:VARIANT names the configuration, --config.field=value changes one field of it"


def run(arguments: argparse.Namespace) -> None:
    config = read_config(arguments.config_arguments)
    training.keep_freed_memory()
    training.train(config, arguments.workdir, resume=arguments.resume, overwrite=arguments.overwrite, device=arguments.device)
    if os.environ.get("RANK", "0") == "0":  # of several processes, the first
        print(f"sde-diffusion sample --workdir {arguments.workdir} --out samples.png")
