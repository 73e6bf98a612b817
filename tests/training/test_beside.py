"""What is trained beside the network: the parameters of the loss and of the process, and what a loss remembers."""

import dataclasses
import inspect
import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import sde_diffusion as sd
from sde_diffusion import training
from sde_diffusion.training.beside import module_of
from sde_diffusion.training.ema import ExponentialAverage

LEARNED = "LearnedVPSDE(3.0, -2.5, hidden=4)"


class Uncertain(nn.Module):
    """loss/exp(u) + u with u = a + b t, and the moments of the losses it is shown."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        self.register_buffer("sums", torch.zeros(3, dtype=torch.float64))
        self.inner = sd.VDMLoss()

    def forward(self, denoiser, x0, *, t, **options):
        u = self.a + self.b * t.to(x0)
        return self.inner(denoiser, x0, t=t, **options) * torch.exp(-u) + u

    def draw_times(self, denoiser, x0, noise):
        return self.inner.draw_times(denoiser, x0, noise)

    def observe(self, t, losses):
        first_and_last = t[0] - t[-1]  # so that the order counts
        self.sums += torch.stack([losses.double().sum(), (t * losses).sum(), first_and_last])

    def __repr__(self):
        return "Uncertain()"


def changed(config, **fields):
    config = config.copy_and_resolve_references()
    config.update(fields)
    return config


@pytest.fixture(autouse=True)
def named(monkeypatch):
    """Expressions may name the loss of these tests."""
    monkeypatch.setattr(sd, "Uncertain", Uncertain, raising=False)
    monkeypatch.setattr(sd, "__all__", [*sd.__all__, "Uncertain"])


@pytest.fixture
def config(config):
    return changed(config, sde=LEARNED, loss="Uncertain()", ema=(0.5, 0.99))


def run(config, workdir, **options):
    return training.train(config, workdir, progress=False, device="cpu", **options)


def tensors(workdir):
    newest = training.open_checkpoint(workdir)
    return {f"{group}.{name}": value for group in newest.state["sha256"] for name, value in newest.tensors(group).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_parameters_of_loss_and_process_are_trained_and_saved(config, tmp_path):
    run(config, tmp_path)
    found, fresh = tensors(tmp_path), {f"sde.{k}": v for k, v in sd.build(LEARNED).state_dict().items()}
    for name in ("loss.a", "loss.b", "sde.ends", "sde.centers", "sde.log_heights", "sde.log_rates"):
        assert not torch.equal(found[f"beside.{name}"], fresh.get(name, torch.zeros(())))
        assert f"beside-optimizer.{name}:exp_avg_sq" in found
    assert found["beside.loss.sums"].abs().min() > 0


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_weight_decay_is_the_network_s_alone(config, tmp_path, optimizer):
    for decay in (0.0, 0.5):
        run(changed(config, steps=1, warmup=0, optimizer=optimizer, weight_decay=decay), tmp_path / f"{decay}")
    none, some = (
        {name: value for name, value in tensors(tmp_path / f"{decay}").items() if name.startswith("beside")} for decay in (0.0, 0.5)
    )
    assert same(none, some)
    assert not same(tensors(tmp_path / "0.0"), tensors(tmp_path / "0.5"))


def test_a_resumed_run_reaches_the_same_bits(config, tmp_path):
    run(config, tmp_path / "whole")
    run(changed(config, steps=10), tmp_path / "halves")
    run(config, tmp_path / "halves", resume=True)
    assert same(tensors(tmp_path / "whole"), tensors(tmp_path / "halves"))


def test_a_law_of_times_that_learns_is_resumed_to_the_same_bits(config, tmp_path):
    law = "LossSecondMomentTimes(VPSDE(), bins=4, history=3)"
    config = changed(config, sde="VPSDE()", loss=f"DenoisingScoreMatching(times={law}, unbiased=True)")
    run(config, tmp_path / "whole")
    run(changed(config, steps=10), tmp_path / "halves")
    run(config, tmp_path / "halves", resume=True)
    assert tensors(tmp_path / "whole")["beside.loss.times.counts"].min() >= 3
    assert same(tensors(tmp_path / "whole"), tensors(tmp_path / "halves"))


def test_the_loss_observes_every_step_of_the_whole_batch_however_it_is_divided(config, tmp_path):
    for accumulate in (1, 4):
        run(changed(config, accumulate=accumulate, steps=3), tmp_path / f"run-{accumulate}")
    one, four = (tensors(tmp_path / name)["beside.loss.sums"] for name in ("run-1", "run-4"))
    torch.testing.assert_close(one, four, rtol=1e-6, atol=1e-9)


def test_what_is_observed_has_the_mean_that_is_logged(config, tmp_path):
    run(changed(config, steps=1, log_every=1), tmp_path)
    loss = json.loads((tmp_path / training.LOG).read_text())["loss"]
    assert tensors(tmp_path)["beside.loss.sums"][0].item() / config.batch_size == pytest.approx(loss, rel=1e-6)


def test_the_process_is_averaged_as_the_network_is(config, tmp_path):
    config = changed(config, steps=2, checkpoint_every=1)
    run(config, tmp_path)
    first, second = (training.open_checkpoint(tmp_path / "checkpoints" / f"{step:08d}") for step in (1, 2))
    beta = ExponentialAverage(0.5).beta(1)
    expected = first.tensors("beside-ema-0.5")["ends"].lerp(second.tensors("beside")["sde.ends"], 1 - beta)
    torch.testing.assert_close(second.tensors("beside-ema-0.5")["ends"], expected, rtol=1e-6, atol=0)


def test_a_checkpoint_samples_with_the_averaged_schedule_as_a_table(config, tmp_path):
    returned = run(config, tmp_path / "run")
    checkpoint = training.open_checkpoint(tmp_path / "run")
    denoiser = checkpoint.denoiser()
    trained = sd.build(LEARNED)
    trained.load_state_dict(checkpoint.tensors("beside-ema-0.5"))
    assert denoiser.sde == returned.sde == trained.frozen()
    assert checkpoint.denoiser(ema="0.99").sde != denoiser.sde != checkpoint.denoiser(ema=False).sde
    assert sd.build(repr(denoiser.sde)) == denoiser.sde
    for solver in (sd.DDIM(), sd.EulerMaruyama(), "auto"):
        assert (
            sd.sample(denoiser, solver, shape=(2, 2), **({"nfe": 4} if solver == "auto" else {"steps": 4}), seeds=range(2)).isfinite().all()
        )
    folder = denoiser.save_pretrained(tmp_path / "kept")
    assert sd.Denoiser.from_pretrained(folder).sde == denoiser.sde


def test_a_plain_run_keeps_no_more_than_it_did(config, tmp_path):
    run(changed(config, sde="VPSDE()", loss="DenoisingScoreMatching()"), tmp_path)
    assert set(training.open_checkpoint(tmp_path).state["sha256"]) == {"network", "optimizer", "ema-0.5", "ema-0.99"}


def test_a_module_inside_a_loss_without_parameters_is_found():
    @dataclasses.dataclass(frozen=True)
    class Holder:
        times: object

    inside = nn.BatchNorm1d(2)
    assert module_of(sd.DenoisingScoreMatching()) is None
    assert list(module_of(Holder(inside)).state_dict()) == [f"times.{name}" for name in inside.state_dict()]


def test_float16_is_refused_before_the_first_step(config, tmp_path, monkeypatch):
    experiment = training.Experiment.build(config)
    experiment.config.precision = "float16"
    with pytest.raises(ValueError, match="use precision=bfloat16"):
        training.beside.Beside(experiment)


SCRIPT = f"""
import sys
import torch
from torch import nn
import sde_diffusion as sd
from sde_diffusion import training

{inspect.getsource(Uncertain)}
sd.Uncertain = Uncertain
sd.__all__ = [*sd.__all__, "Uncertain"]
config = training.default_config()
config.update(dict(network="MLP(dim=2, width=16, depth=1)", data="ring", batch_size=32, steps=4, warmup=2, checkpoint_every=4,
                   log_every=1, sde={LEARNED!r}, loss="Uncertain()"))
"""


SHARDED = """
import accelerate
from torch.distributed.fsdp import fully_shard

def prepare(self, network, optimizer):  # as accelerate's does where there are GPUs: it does not shard on CPUs
    fully_shard(network)
    return network, type(optimizer)(network.parameters(), **optimizer.defaults)

accelerate.Accelerator.prepare = prepare
"""


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["DDP", "FSDP"])
def test_two_processes_train_what_one_does(sharded, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + SHARDED * sharded + "training.train(config, sys.argv[1], progress=False)\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script), str(tmp_path / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    scope = {}
    exec(SCRIPT, scope)
    run(scope["config"], tmp_path / "one")
    one, two = tensors(tmp_path / "one"), tensors(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
