"""A run that is stopped, killed or cannot write goes on from its last checkpoint, to the bit on one CPU process."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from sde_diffusion import training
from sde_diffusion.training import checkpoint

CONFIG = """
from sde_diffusion.training import default_config

def get_config():
    config = default_config()
    config.update(dict(network="MLP(dim=2, width=16, depth=1)", data="ring", batch_size=32, warmup=5, steps={steps}, checkpoint_every=7,
                       log_every=5, ema_power=(0.1,)))
    return config
"""


def tensors(workdir):
    newest = training.open_checkpoint(workdir)
    groups = ("network", "optimizer", *(f"ema-{name}" for name in newest.averages))
    return {f"{group}.{k}": v for group in groups for k, v in newest.tensors(group).items()}


def log(workdir):
    return [json.loads(line) for line in (workdir / training.LOG).read_text().splitlines()]


def same(a, b):
    return a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)


def run(config, workdir, **options):
    return training.train(config, workdir, progress=False, device="cpu", **options)


def start(folder, steps, workdir, *options):
    """The command line, training in a process of its own."""
    path = folder / "config.py"
    path.write_text(CONFIG.format(steps=steps))
    arguments = ("train", "--config", path, "--workdir", workdir, "--device", "cpu", *options)
    return subprocess.Popen(
        [sys.executable, "-m", "sde_diffusion.cli.main", *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )


def whole(steps, workdir):
    scope = {}
    exec(CONFIG.format(steps=steps), scope)
    config = scope["get_config"]()
    run(config, workdir)
    return config


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=["SIGTERM", "SIGINT", "kill -9"])
def test_a_run_that_a_signal_stops_goes_on_to_the_same_bits(number, tmp_path):
    process = start(tmp_path, 100_000, tmp_path / "stopped")
    until = time.time() + 60
    while not checkpoint.checkpoints(tmp_path / "stopped") and time.time() < until:
        time.sleep(0.01)
    process.send_signal(number)
    message = process.communicate(timeout=60)[1].decode()
    reached = training.open_checkpoint(tmp_path / "stopped").step
    if number == signal.SIGKILL:
        assert process.returncode == -9
        assert reached % 7 == 0
    else:
        assert process.returncode == (143 if number == signal.SIGTERM else 130)
        assert f"checkpoint of step {reached}" in message or "with --resume" in message
    config = whole(reached + 3, tmp_path / "whole")
    run(config, tmp_path / "stopped", resume=True)
    assert same(tensors(tmp_path / "whole"), tensors(tmp_path / "stopped"))


def test_a_signal_writes_the_checkpoint_of_the_step_that_it_interrupts(config, tmp_path, monkeypatch):
    update = training.Averages.update

    def interrupted(self, network, n):
        update(self, network, n)
        if n == 12:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(training.Averages, "update", interrupted)
    with pytest.raises(SystemExit) as stop:
        run(config, tmp_path)
    assert stop.value.code == 143
    assert training.open_checkpoint(tmp_path).step == 13
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(config, tmp_path, monkeypatch):
    write = checkpoint._write

    def full(path, content):
        if "00000020" in str(path) and path.name.startswith("optimizer"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(OSError, match=r"checkpoint of step 20 .*No space left.*last one is whole .*00000010.*--resume"):
        run(config, tmp_path)
    monkeypatch.undo()
    assert training.open_checkpoint(tmp_path).step == 10
    run(config, tmp_path, resume=True)
    run(config, tmp_path / "whole")
    assert same(tensors(tmp_path), tensors(tmp_path / "whole"))


def test_a_workdir_that_cannot_be_is_told_before_the_first_step(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file.*give another --workdir"):
        run(config, tmp_path / "file" / "run")


def test_checkpoints_of_multiples_are_kept_beside_the_newest(config, tmp_path):
    config.update({"checkpoint_every": 2, "keep": 1, "keep_every": 8})
    run(config, tmp_path)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["00000008", "00000016", "00000020"]


def test_a_network_with_dropout_labels_and_flips_resumes_to_the_bit(config, tmp_path):
    network = "UNet(UNetConfig(width=8, classes=10, dropout=0.3))"
    config.update({"network": network, "data": "Digits(flip=True, dequantize=True)", "conditional": True, "label_dropout": 0.2})
    config.update({"steps": 6, "checkpoint_every": 3})
    run(config, tmp_path / "whole")
    config.steps = 3
    run(config, tmp_path / "halves")
    config.steps = 6
    run(config, tmp_path / "halves", resume=True)
    assert same(tensors(tmp_path / "whole"), tensors(tmp_path / "halves"))


@pytest.mark.parametrize(
    "options", [{"precision": "bfloat16"}, {"precision": "bfloat16", "channels_last": True}, {"accumulate": 2}], ids=str
)
def test_flags_of_speed_leave_the_loss_about_as_it_was(options, config, tmp_path):
    config.update({"network": "UNet(UNetConfig(width=8))", "data": "digits", "steps": 2, "log_every": 1})
    run(config, tmp_path / "plain")
    config.update(options)
    run(config, tmp_path / "flags")
    plain, flags = (log(tmp_path / name) for name in ("plain", "flags"))
    assert [line["loss"] for line in flags] == pytest.approx([line["loss"] for line in plain], rel=0.02)
    assert all(value.dtype == tensors(tmp_path / "plain")[name].dtype for name, value in tensors(tmp_path / "flags").items())


def test_float16_without_a_gpu_is_refused(config, tmp_path):
    config.precision = "float16"
    with pytest.raises(ValueError, match=r"float16 needs a GPU.*bfloat16"):
        run(config, tmp_path)


def test_a_cosine_schedule_does_not_change_its_end(config, tmp_path):
    config.schedule = "cosine"
    run(config, tmp_path)
    config.steps = 40
    with pytest.raises(ValueError, match="steps: 20 -> 40"):
        run(config, tmp_path, resume=True)


@pytest.mark.slow
def test_a_compiled_run_goes_on_from_a_plain_one(config, tmp_path):
    config.steps = 10
    run(config, tmp_path)
    config.update({"steps": 20, "compile": True})
    run(config, tmp_path, resume=True)
    config.compile = False
    run(config, tmp_path / "plain")
    a, b = tensors(tmp_path), tensors(tmp_path / "plain")
    assert a.keys() == b.keys()
    assert all((a[k] - b[k]).abs().max() < 1e-4 for k in a)
