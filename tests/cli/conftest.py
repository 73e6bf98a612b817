"""Untrained runs on the disk, for tests of the commands that read them."""

import pytest
import torch

from sde_diffusion.cli.main import main
from sde_diffusion.expressions import build
from sde_diffusion.training import default_config
from sde_diffusion.training.checkpoint import save_checkpoint

AVERAGES = ("0.999", "0.9")


def _write_run(workdir, *, classes=0, seed=0, shape=(1, 8, 8), **fields):
    """A run of the digits after 3 steps, with weights of random numbers: `network`, and each of AVERAGES another."""
    config = {
        **default_config().to_dict(),
        "network": f"UNet(UNetConfig(width=8, classes={classes}))",
        "conditional": classes > 0,
        **fields,
    }
    tensors = {}
    with torch.random.fork_rng(devices=[]):
        for i, name in enumerate(("network", *(f"ema-{average}" for average in AVERAGES))):
            torch.default_generator.manual_seed(100 * seed + i)
            weights = build(config["network"]).state_dict()
            tensors[name] = {key: value + 0.05 * torch.randn_like(value) for key, value in weights.items()}  # no layer is zero
    state = {"config": config, "averages": AVERAGES, "data": {"shape": shape, "range": (-1.0, 1.0), "classes": 10}}
    save_checkpoint(workdir, 3, tensors, state, keep=1)
    lines = [f'{{"step": {k}, "loss": {1 / k}, "lr": 0.001, "seconds": 1.0}}\n' for k in (1, 2, 3)]
    (workdir / "log.jsonl").write_text("".join(lines))
    return workdir


@pytest.fixture(scope="session")
def write_run():
    """Writes an untrained run: write_run(workdir, classes=0, seed=0, shape=(1, 8, 8), **fields of the configuration)."""
    return _write_run


@pytest.fixture(scope="session")
def run(write_run, tmp_path_factory):
    """An unconditional run; not to be changed."""
    return write_run(tmp_path_factory.mktemp("runs") / "plain")


@pytest.fixture
def refusal(capsys):
    """The message with which a command line is refused, checked to be one without traceback, on stderr, with exit code 2."""

    def refusal(*arguments):
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit_:  # argparse
            code = exit_.code
        captured = capsys.readouterr()
        assert code == 2, captured.err
        assert captured.out == ""
        assert "Traceback" not in captured.err
        return captured.err

    return refusal
