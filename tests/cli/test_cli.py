import json

import numpy as np
import pytest
import torch
from PIL import Image

from sde_diffusion.cli.main import main

CONFIG = """
from sde_diffusion.training import default_config


def get_config():
    config = default_config()
    config.network = "UNet(UNetConfig(width=8))"
    config.steps = 4
    config.batch_size = 16
    config.log_every = 2
    return config
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a configuration file and a run trained from it."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.py").write_text(CONFIG)
    assert main(["train", "--config", str(folder / "tiny.py"), "--workdir", str(folder / "run"), "--config.lr=2e-3"]) == 0
    return folder


def refused(capsys, *arguments):
    """The message with which a command line is refused, checked to be one without traceback, on stderr, with exit code 2."""
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as exit_:  # argparse
        code = exit_.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def test_sampling_with_auto_says_what_it_takes(trained, capsys):
    command = ["sample", "--workdir", str(trained / "run"), "--n", "2", "--solver", "auto", "--nfe", "6", "--out"]
    assert main([*command, str(trained / "auto.npz")]) == 0
    assert "auto: AdamsBashforth(order=4" in capsys.readouterr().err
    assert np.load(trained / "auto.npz")["samples"].shape == (2, 1, 8, 8)


def test_the_errors_of_a_checkpoint_are_measured_once_and_kept_with_it(trained, capsys):
    command = ["sample", "--workdir", str(trained / "run"), "--n", "2", "--steps", "5", "--solver", "Ancestral('analytic', errors)"]
    assert main([*command, "--grid", "dynamic_programming(errors=errors)", "--out", str(trained / "analytic.npz")]) == 0
    (kept,) = (trained / "run").rglob("errors.json")
    written = kept.stat().st_mtime_ns
    assert main([*command, "--out", str(trained / "again.npz")]) == 0
    assert kept.stat().st_mtime_ns == written


def test_train_overrides_fields_of_the_configuration(trained):
    assert json.loads((trained / "run" / "config.json").read_text())["lr"] == 2e-3


def test_sample_writes_a_picture_and_an_array(trained):
    command = ["sample", "--workdir", str(trained / "run"), "--n", "5", "--steps", "3", "--out"]
    assert main([*command, str(trained / "x.png")]) == 0
    assert main([*command, str(trained / "x.npz"), "--solver", "EulerMaruyama(eta=0.5)", "--grid", "karras(rho=5.0)"]) == 0
    assert Image.open(trained / "x.png").width > 8
    assert np.load(trained / "x.npz")["samples"].shape == (5, 1, 8, 8)


def test_sample_is_deterministic_in_its_seed_and_leaves_the_global_generator_alone(trained):
    before = torch.random.get_rng_state()
    arrays = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        out = trained / f"seed-{name}.npz"
        assert main(["sample", "--workdir", str(trained / "run"), "--n", "2", "--steps", "2", "--seed", str(seed), "--out", str(out)]) == 0
        arrays.append(np.load(out)["samples"])
    assert (arrays[0] == arrays[1]).all()
    assert (arrays[0] != arrays[2]).any()
    assert torch.equal(before, torch.random.get_rng_state())


def test_sample_takes_a_tuple_of_times_as_its_grid(trained):
    out = trained / "grid.npz"
    assert main(["sample", "--workdir", str(trained / "run"), "--n", "2", "--grid", "(1.0, 0.5, 0.001)", "--out", str(out)]) == 0


def test_train_resumes_and_refuses_and_overwrites(trained, capsys, tmp_path):
    command = ["train", "--config", trained / "tiny.py", "--workdir", tmp_path / "run"]
    assert main([str(c) for c in command]) == 0
    assert "holds another run" in refused(capsys, *command)
    assert main([*map(str, command), "--resume", "--config.steps=6"]) == 0
    assert (tmp_path / "run" / "checkpoints" / "00000006").exists()
    assert "lr: 0.001 -> 0.5" in refused(capsys, *command, "--resume", "--config.lr=0.5")
    assert main([*map(str, command), "--overwrite"]) == 0
    assert not (tmp_path / "run" / "checkpoints" / "00000006").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--config.lrr=1"], ["no field", "lrr", "lr"]),
        (["--config.lr=fast"], ["lr=fast", "float"]),
        (["--config.sde=VPSDE(beta=3)"], ["VPSDE(beta=3)", "do not fit"]),
        (["--config.network=UNett()"], ["unknown name 'UNett'", "did you mean UNet"]),
        (["--config.network=MLP(dim=2)"], ["and digits", "do not fit", "(1, 8, 8)", "dim=64"]),
        (["--config.data=nothing.npy"], ["no data file", "nothing.npy"]),
        (["--config.loss=DenoisingScoreMatching(times=ChainTimes())"], ["is not one", "UniformTimes"]),
        (["--resum"], ["--resum"]),
        (["--resume", "--overwrite"], ["not allowed with"]),
        (["--device", "abacus"], ["abacus"]),
    ],
)
def test_train_refuses_mistakes_before_it_writes(arguments, parts, trained, capsys, tmp_path):
    message = refused(capsys, "train", "--config", trained / "tiny.py", "--workdir", tmp_path / "new", *arguments)
    assert all(part in message for part in parts), message
    assert not (tmp_path / "new").exists()


def test_train_needs_a_configuration_file_that_exists(capsys, tmp_path):
    assert "--config configs/vp_digits.py" in refused(capsys, "train", "--workdir", tmp_path)
    assert "nowhere.py" in refused(capsys, "train", "--workdir", tmp_path, "--config", "nowhere.py")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--solver", "DDIMM()"], ["unknown name 'DDIMM'", "did you mean DDIM"]),
        (["--solver", "DDIM(etta=1)"], ["do not fit DDIM", "etta"]),
        (["--solver", "VPSDE()"], ["not a solver"]),
        (["--solver", "DDIM("], ["is not an expression"]),
        (["--steps", "0"], ["0"]),
        (["--n", "0"], ["--n must be positive"]),
        (["--grid", "(1.5, 0.5, 0.1)"], ["[0, 1]", "1.5"]),
        (["--grid", "(0.1, 0.5, 1.0)"], ["must decrease"]),
        (["--grid", "(1.0, 0.5, 0.0)", "--solver", "Langevin()"], ["t_min"]),
        (["--grid", "karras(rho=-1.0)"], ["rho must be a positive number"]),
        (["--grid", "carras()"], ["did you mean karras"]),
    ],
)
def test_sample_refuses_mistakes_before_it_works(arguments, parts, trained, capsys):
    message = refused(capsys, "sample", "--workdir", trained / "run", "--out", trained / "never.npz", *arguments)
    assert all(part in message for part in parts), message
    assert not (trained / "never.npz").exists()


def test_sample_refuses_a_missing_checkpoint_and_outputs_it_cannot_or_must_not_write(trained, capsys, tmp_path):
    assert "no checkpoint in" in refused(capsys, "sample", "--workdir", tmp_path, "--out", tmp_path / "x.png")
    assert ".png or .npz" in refused(capsys, "sample", "--workdir", trained / "run", "--out", tmp_path / "x.jpg")
    (tmp_path / "x.npz").write_text("mine")
    assert "--overwrite" in refused(capsys, "sample", "--workdir", trained / "run", "--out", tmp_path / "x.npz")
    assert (tmp_path / "x.npz").read_text() == "mine"
    command = ["sample", "--workdir", trained / "run", "--n", 2, "--steps", 2, "--overwrite", "--out", tmp_path / "x.npz"]
    assert main([str(c) for c in command]) == 0
    assert np.load(tmp_path / "x.npz")["samples"].shape == (2, 1, 8, 8)


def test_evaluate_refuses_a_missing_checkpoint(capsys, tmp_path):
    assert "no checkpoint in" in refused(capsys, "evaluate", "--workdir", tmp_path)


@pytest.mark.parametrize("sde", ["vp", "subvp", "ve"])
def test_quickstart_trains_samples_draws_and_prints_one_table(sde, capsys, tmp_path):
    command = ["quickstart", "--workdir", tmp_path / sde, "--sde", sde, "--steps", 2, "--n", 4, "--fast"]
    assert main([str(c) for c in command]) == 0
    out = capsys.readouterr().out
    for solver in ("EulerMaruyama()", "PredictorCorrector()", "Ancestral()", "DDIM()", "AdaptiveODE("):
        assert solver in out
    names = {path.name for path in (tmp_path / sde).iterdir()}
    pictures = ("euler_maruyama", "predictor_corrector", "ancestral", "ddim", "probability_flow_ode", "loss")
    assert {*(f"{name}.png" for name in pictures), "film.gif"} <= names
    assert Image.open(tmp_path / sde / "film.gif").n_frames > 10
    assert "holds another run" in refused(capsys, *command)


def test_quickstart_refuses_mistakes(capsys, tmp_path):
    assert "invalid choice" in refused(capsys, "quickstart", "--workdir", tmp_path, "--sde", "edm")
    assert "must be positive" in refused(capsys, "quickstart", "--workdir", tmp_path, "--steps", 0)
    assert "--n must be at least 2" in refused(capsys, "quickstart", "--workdir", tmp_path, "--n", 1)


def test_train_stops_with_a_message_when_the_loss_is_not_finite(trained, capsys, tmp_path):
    command = ["train", "--config", trained / "tiny.py", "--workdir", tmp_path / "run"]
    message = refused(capsys, *command, "--config.lr=1e30", "--config.warmup=0")
    for part in ("step", "t = [", "samples [", "last good checkpoint is (none)", "lower config.lr"):
        assert part in message
