"""Several processes with gloo on the CPU, as torchrun and accelerate start them."""

import json
import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from sde_diffusion import training

CONFIG = """
from sde_diffusion.training import default_config

def get_config():
    config = default_config()
    config.update(dict(network="UNet(UNetConfig(width=8, classes=10))", data="Digits(flip=True, dequantize=True)", conditional=True,
                       label_dropout=0.2, batch_size=24, steps=8, warmup=3, checkpoint_every=4, log_every=1,
                       ema_power=(0.1,), snapshot_every=4))
    return config
"""
SHARDED = """
import sys
import accelerate
from sde_diffusion.cli import main
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

def prepare(self, network, optimizer):  # as accelerate's does where there are GPUs: it does not shard on CPUs
    fully_shard(network)
    assert all(isinstance(p, DTensor) for p in network.parameters())
    return network, type(optimizer)(network.parameters(), **optimizer.defaults)

accelerate.Accelerator.prepare = prepare
sys.exit(main.main(sys.argv[1:]))
"""


def launch(*arguments, script=("-m", "sde_diffusion.cli.main"), processes=2):
    """The command line on several processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = subprocess.run(
        [*command, *map(str, (*script, *arguments))],
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def log(workdir):
    return [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]


def weights(workdir, group="network"):
    return training.open_checkpoint(workdir).tensors(group)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A configuration, and the same run on one process."""
    folder = tmp_path_factory.mktemp("distributed")
    path = folder / "config.py"
    path.write_text(CONFIG)
    scope = {}
    exec(CONFIG, scope)
    training.train(scope["get_config"](), folder / "one", progress=False, device="cpu")
    return path, folder / "one", scope["get_config"]


def close(a, b, tolerance):
    """Whether weights agree; Adam turns rounding of small gradients into steps of up to lr."""
    return a.keys() == b.keys() and all((a[k] - b[k]).abs().max() < tolerance for k in a)


@pytest.mark.parametrize("sharded", [False, True], ids=["DDP", "FSDP"])
def test_two_processes_follow_the_loss_curve_of_one_and_one_goes_on_from_their_checkpoint(sharded, files, tmp_path):
    path, one, get_config = files
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    arguments = ("train", "--config", path, "--config.steps=4", "--config.sample_every=3", "--workdir", tmp_path)
    launch(*arguments, **({"script": (script,)} if sharded else {}))
    assert [line["step"] for line in log(tmp_path)] == [1, 2, 3, 4]
    assert (tmp_path / "samples" / "00000003.png").exists()
    stored, theirs = (load_file(folder / "snapshots" / "00000004" / "power-0.1.safetensors") for folder in (one, tmp_path))
    assert close(stored, theirs, 1e-5)
    for mine, theirs in zip(log(one), log(tmp_path), strict=False):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-5)
        assert theirs["gradient_norm"] == pytest.approx(mine["gradient_norm"], rel=1e-4)
    training.train(get_config(), tmp_path, resume=True, progress=False, device="cpu")
    for mine, theirs in zip(log(one), log(tmp_path), strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-5)
    for group in ("network", "ema-0.999", "ema-power-0.1"):
        assert close(weights(one, group), weights(tmp_path, group), 1e-4)
    assert weights(one, "optimizer").keys() == weights(tmp_path, "optimizer").keys()


def test_two_processes_go_on_from_the_checkpoint_of_one_in_two_parts_each(files, tmp_path):
    path, one, get_config = files
    config = get_config()
    config.steps = 4
    training.train(config, tmp_path, progress=False, device="cpu")
    launch("train", "--config", path, "--config.accumulate=2", "--workdir", tmp_path, "--resume")
    for mine, theirs in zip(log(one), log(tmp_path), strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-5)
    assert close(weights(one), weights(tmp_path), 1e-4)


def test_accumulated_parts_are_the_whole_batch(files, tmp_path):
    _, one, get_config = files
    config = get_config()
    config.accumulate = 3
    training.train(config, tmp_path, progress=False, device="cpu")
    for mine, theirs in zip(log(one), log(tmp_path), strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-5)
    assert close(weights(one), weights(tmp_path), 1e-4)
