"""Each file of configs/, and each of its variants, at a fraction of its size and on a few samples in the format of its data."""

import argparse
import dataclasses
import importlib.util
import json
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import sde_diffusion as sd
from sde_diffusion import training
from sde_diffusion.cli import evaluate, sample
from sde_diffusion.cli.train import read_config
from sde_diffusion.networks import published
from sde_diffusion.training.config import check

CONFIGS = Path(__file__).parents[2] / "configs"
WIDTH = 8


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


MODULES = {path.name: module(path) for path in sorted(CONFIGS.glob("*.py"))}
RUNS = [f"{name}:{variant}" for name, m in MODULES.items() for variant in getattr(m, "VARIANTS", ("",))]


def config_of(run):
    name, _, variant = run.partition(":")
    return MODULES[name].get_config(*[variant] if variant else [])


@pytest.fixture
def unbuilt(monkeypatch):
    """What gives the configuration of a U-Net's expression without making its weights."""

    def unet(config):
        return argparse.Namespace(config=config)

    monkeypatch.setattr(published, "UNet", unet)
    names = {name: getattr(published, name) for name in dir(published) if name.endswith("_cifar10")}
    return lambda text: sd.build(text, {**names, "UNet": unet, "UNetConfig": sd.UNetConfig}).config


def shrunk(text, unbuilt):
    """The expression of a network like that of `text`, but narrow and shallow."""
    if text.startswith(("NCSN", "MLP")):
        return re.sub("width=[0-9]+", f"width={WIDTH}", text)
    return f"UNet({dataclasses.replace(unbuilt(text), width=WIDTH, blocks=1)})"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """CIFAR-10's files with 4 records each, and a folder of pictures; what to write for them in config.data."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        records = rng.integers(0, 256, (4, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / f"{name}.bin")
    from PIL import Image

    (folder / "photographs").mkdir()
    for k in range(5):
        Image.fromarray(rng.integers(0, 256, (70, 80, 3), dtype=np.uint8)).save(folder / "photographs" / f"{k}.png")
    return {"data/cifar-10-batches-bin": str(folder), "'photographs'": repr(str(folder / "photographs"))}


@pytest.mark.parametrize("run", RUNS)
def test_it_trains_and_its_checkpoint_samples(run, sources, unbuilt, tmp_path):
    config = config_of(run)
    check(config)
    assert set(config) == set(training.default_config())
    for here, there in sources.items():
        config.data = config.data.replace(here, there)
    config.network = shrunk(config.network, unbuilt)
    config.update({"steps": 1, "batch_size": 2, "workers": 0, "log_every": 1})
    experiment = training.Experiment.build(config)
    training.train(experiment, tmp_path, device="cpu", progress=False)
    assert math.isfinite(json.loads((tmp_path / training.LOG).read_text().splitlines()[-1])["loss"])
    denoiser = training.open_checkpoint(tmp_path).denoiser()
    classes = torch.tensor([0, experiment.data.classes - 1]) if config.conditional else None
    x = sd.sample(denoiser, sd.DDIM(), shape=(2, *experiment.data.shape), steps=2, seeds=range(2), cond=classes)
    assert x.isfinite().all()


@pytest.mark.parametrize("name", MODULES)
def test_its_docstring_says_command_hardware_duration_and_result(name):
    text = MODULES[name].__doc__
    for word in (f"--config configs/{name}", "Hardware:", "Duration:", "Expected:", *getattr(MODULES[name], "VARIANTS", ())):
        assert word in text


def commands(text):
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if re.match("    (sde-diffusion|accelerate) ", line)]


@pytest.mark.parametrize("name", MODULES)
def test_the_commands_in_its_docstring_are_understood(name, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    found = set()
    for words in commands(MODULES[name].__doc__):
        command = next(word for word in words if word in ("train", "evaluate", "sample"))
        rest = words[words.index(command) + 1 :]
        rest = ["cpu" if word == "cuda" else word for word in rest]
        found.add(command)
        if command == "train":
            k = rest.index("--workdir")
            read_config(rest[:k] + rest[k + 2 :])
            continue
        parser = argparse.ArgumentParser()
        (evaluate if command == "evaluate" else sample).add_arguments(parser)
        arguments = parser.parse_args(rest)
        if arguments.solver != "auto":
            assert isinstance(sd.build(arguments.solver), sd.Solver)
    assert {"train", "evaluate"} <= found


@pytest.mark.parametrize(
    ("run", "paper", "changes"),
    [
        ("ddpmpp_cifar10.py:vp", "ddpmpp_cifar10()", {}),
        ("ddpmpp_cifar10.py:subvp_deep", "ddpmpp_cifar10()", {"blocks": 8}),
        ("ncsnpp_cifar10.py:ve", "ncsnpp_cifar10()", {"recentre": False}),  # data are in [-1, 1] already
        ("edm_cifar10.py:vp", "edm_ddpmpp_cifar10()", {}),
        ("edm_cifar10.py:ve_conditional", "edm_ncsnpp_cifar10()", {"classes": 10}),
    ],
)
def test_the_networks_written_out_are_the_published_ones(run, paper, changes, unbuilt):
    assert unbuilt(config_of(run).network) == dataclasses.replace(unbuilt(paper), **changes)


@pytest.mark.parametrize(
    ("run", "theirs"),
    [
        ("ncsnpp_cifar10.py:ve", "VESDE(0.01, 50.0)"),
        ("ncsnpp_cifar10.py:ve_discrete", "NCSNLadder(geometric_sigmas(1000, 0.01, 50.0))"),
        ("ncsn_cifar10.py:", "NCSNLadder(geometric_sigmas(10, 0.01, 1.0))"),
        ("ncsnv2_cifar10.py:", "NCSNLadder(geometric_sigmas(232, 0.01, 50.0))"),
    ],
)
def test_the_noise_is_twice_that_of_the_papers_whose_images_are_in_0_1(run, theirs):
    t = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    torch.testing.assert_close(sd.build(config_of(run).sde).sigma(t), 2 * sd.build(theirs).sigma(t))


def test_the_loss_of_improved_ddpm_trains_its_variance_channels_and_the_others_by_noise_prediction_alone(unbuilt):
    config = config_of("improved_ddpm_cifar10.py:")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = sd.build(shrunk(config.network, unbuilt))
    parts = (sd.build(config[field]) for field in ("sde", "parameterization", "conditioning"))
    denoiser, x = sd.NetworkDenoiser(network, *parts), torch.full((2, 3, 32, 32), 127 / 127.5 - 1)  # one of 256 grey values
    last = next(p for p in reversed(list(network.parameters())) if len(p) == 6)
    simple = sd.DenoisingScoreMatching(times=sd.ChainTimes(), stratified=False)
    gradients = []
    for loss in (sd.build(config.loss), simple):
        with torch.random.fork_rng(devices=[]):  # dropout
            torch.manual_seed(0)
            value = loss(denoiser, x, generator=torch.Generator().manual_seed(0)).mean()
        gradients.append(torch.autograd.grad(value, last)[0])
    assert gradients[0][3:].abs().min() > 0
    assert gradients[1][3:].abs().max() == 0
    torch.testing.assert_close(gradients[0][:3], gradients[1][:3])


def test_the_documentation_names_every_field():
    text = (CONFIGS.parent / "docs" / "training.md").read_text()
    rows = "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    assert set(re.findall("`([a-z0-9_]+)`", rows)) == set(training.default_config()) - {"version"}


@pytest.mark.parametrize("run", ["ddpmpp_cifar10.py", "ncsnpp_cifar10.py", "edm_cifar10.py"])
def test_an_unknown_variant_is_refused_with_the_known_ones(run):
    with pytest.raises(ValueError, match="no variant 'deeper'.*" + ", ".join(MODULES[run].VARIANTS)) as refusal:
        read_config(["--config", f"{CONFIGS / run}:deeper"])
    assert "\n" not in str(refusal.value)


def test_a_variant_of_a_file_without_any_is_refused():
    with pytest.raises(ValueError, match="has no variants"):
        read_config(["--config", f"{CONFIGS / 'vp_digits.py'}:fast"])


def test_missing_cifar_is_refused_with_the_address_of_the_files(tmp_path):
    config = config_of("ddpm_cifar10.py:")
    config.data = f"CIFAR10({str(tmp_path)!r})"
    with pytest.raises(FileNotFoundError, match=r"data_batch_1.bin.*cifar-10-binary.tar.gz"):
        training.Experiment.build(config)
