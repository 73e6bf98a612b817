"""The command line: `sde-diffusion train | fit | sample | evaluate | compare | export | quickstart`.

A mistake of the user ends in one message on stderr (value, cause, cure) and exit code 2, before any work starts.
"""

import argparse
import sys
from collections.abc import Sequence

from sde_diffusion.cli import compare, evaluate, export, fit, quickstart, sample, train

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
KEPT = {
    "train": "training continues from the last checkpoint with --resume",
    "quickstart": "training continues from the last checkpoint with --resume",
    "fit": "the tables fitted so far are kept",
    "sample": "samples in a folder are kept, and the same command continues",
    "evaluate": "the samples drawn so far are kept, and the same command continues",
}
COMMANDS = (train, fit, sample, evaluate, compare, export, quickstart)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code.

    Args:
        argv: the arguments after the program's name; None for those of the process.
    """
    parser = argparse.ArgumentParser(prog="sde-diffusion", description="Score-based diffusion models.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="train | fit | sample | evaluate | compare | export | quickstart")
    for command in COMMANDS:
        name = command.__name__.rsplit(".", 1)[1]
        sub = commands.add_parser(name, help=(command.__doc__ or "").splitlines()[0], description=command.__doc__, allow_abbrev=False,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        command.add_arguments(sub)
        sub.set_defaults(run=command.run, name=name)
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.run is not train.run:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.config_arguments = rest
    try:
        arguments.run(arguments)
    except (ValueError, OSError, ArithmeticError, ImportError) as error:
        print(f"sde-diffusion {arguments.name}: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        kept = KEPT.get(arguments.name, "nothing was lost")
        print(f"sde-diffusion {arguments.name}: interrupted; {kept}", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
