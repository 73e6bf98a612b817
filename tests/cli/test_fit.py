import dataclasses
import json
import re

import numpy as np
import pytest

from sde_diffusion import solvers
from sde_diffusion.cli.main import INTERRUPTED, main
from sde_diffusion.training import open_checkpoint

CONFIG = """
from sde_diffusion.training import default_config


def get_config():
    config = default_config()
    config.network = "MLP(dim=2, width=16, depth=1)"
    config.data = "ring"
    config.steps = 4
    config.batch_size = 16
    return config
"""
QUICK = ("--trajectories", "16", "--iterations", "4")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with tables for 2 and 3 calls."""
    folder = tmp_path_factory.mktemp("fit")
    (folder / "tiny.py").write_text(CONFIG)
    assert main(["train", "--config", str(folder / "tiny.py"), "--workdir", str(folder / "run")]) == 0
    assert fit(folder / "run", "--nfe", "3,2") == 0
    return folder / "run"


def fit(run, *arguments):
    return main(["fit", "--workdir", str(run), *QUICK, *arguments])


@pytest.fixture
def quick(run, monkeypatch):
    """Makes `fit` return a table that is there, whatever the budget."""
    made = open_checkpoint(run).fitted()[2]
    monkeypatch.setattr(solvers, "fit", lambda denoiser, nfe, **options: made)
    return made


def fails(capsys, *arguments):
    """The message on stderr of a command line that ends with exit code 2."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as exit_:  # argparse
        code = exit_.code
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    return captured.err


def test_fit_leaves_a_table_per_budget_and_the_trajectories_beside_the_weights(run):
    folder = open_checkpoint(run).path
    assert {path.name for path in (folder / "fitted").iterdir()} == {"2.json", "3.json"}
    assert json.loads((folder / "trajectories.json").read_text()) == {"number": 16, "seed": 0}
    assert (folder / "trajectories.safetensors").exists()


def test_fit_refuses_what_is_there_and_continues_with_what_is_missing(run, quick, capsys):
    folder = open_checkpoint(run).path
    paths, table = folder / "trajectories.safetensors", folder / "fitted" / "2.json"
    before = paths.stat().st_mtime_ns, table.stat().st_mtime_ns
    message = fails(capsys, "fit", "--workdir", run, *QUICK, "--nfe", "2,3,4")
    assert "has tables for 2,3 calls already; fit the others with --nfe 4, or add --overwrite" in message
    assert fit(run, "--nfe", "4") == 0
    header, _, row, *_ = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["calls", "base", "rms"]
    assert row.split()[0] == "4"
    assert (paths.stat().st_mtime_ns, table.stat().st_mtime_ns) == before
    assert fit(run, "--nfe", "2", "--overwrite") == 0
    assert paths.stat().st_mtime_ns == before[0]
    assert table.stat().st_mtime_ns > before[1]
    (folder / "fitted" / "4.json").unlink()


def test_fit_takes_other_trajectories_only_when_told_to(run, capsys):
    message = fails(capsys, "fit", "--workdir", run, *QUICK, "--nfe", "4", "--seed", "1")
    assert "holds 16 paths of seed 0, not 16 of seed 1" in message
    assert "overwrite" in message


def test_an_interrupted_fit_keeps_the_budgets_it_finished(run, quick, capsys, monkeypatch):
    def once(denoiser, nfe, **options):
        if nfe > 2:
            raise KeyboardInterrupt
        return quick

    monkeypatch.setattr(solvers, "fit", once)
    before = sorted(open_checkpoint(run).fitted())
    assert fit(run, "--nfe", "1,5") == INTERRUPTED
    assert sorted(open_checkpoint(run).fitted()) == sorted({*before, 1})
    assert "the tables fitted so far are kept" in capsys.readouterr().err
    (open_checkpoint(run).path / "fitted" / "1.json").unlink()


def test_fit_says_when_a_budget_kept_its_base(run, quick, capsys, monkeypatch):
    kept = dataclasses.replace(quick, improved=False)
    monkeypatch.setattr(solvers, "fit", lambda *arguments, **options: kept)
    assert fit(run, "--nfe", "4") == 0
    assert "kept the base" in capsys.readouterr().out
    (open_checkpoint(run).path / "fitted" / "4.json").unlink()


def test_sample_and_evaluate_take_the_fitted_table_by_its_calls(run, capsys):
    arrays = []
    for option in (["--solver", "fitted", "--steps", "2"], ["--solver", "fitted", "--nfe", "2"], ["--solver", "auto", "--nfe", "2"]):
        out = run / f"{len(arrays)}.npz"
        assert main(["sample", "--workdir", str(run), "--n", "3", *option, "--out", str(out)]) == 0
        arrays.append(np.load(out)["samples"])
    assert "auto: FittedSolver(2 calls" in capsys.readouterr().err
    assert (arrays[0] == arrays[1]).all()
    assert (arrays[0] == arrays[2]).all()
    assert main(["evaluate", "--workdir", str(run), "--n", "20", "--solver", "fitted", "--nfe", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:2] == ["fitted", "2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nfe", "7"], "no solver is fitted for 7 calls, .* has tables for 2, 3 calls; run sde-diffusion fit --workdir .* --nfe 7"),
        ([], "needs a number of calls, --nfe or --steps; .* has tables for 2, 3 calls"),
        (["--nfe", "2", "--steps", "3"], "needs a number of calls"),
        (["--nfe", "2", "--grid", "karras()"], "leave"),
    ],
)
def test_a_fitted_table_that_is_missing_or_contradicted_is_refused_with_what_there_is(arguments, message, run, capsys):
    error = fails(capsys, "sample", "--workdir", run, "--solver", "fitted", "--out", run / "never.npz", *arguments)
    assert re.search(message, error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nfe", "5,x"], "'5,x' is no list of whole numbers"),
        (["--nfe", "0,5"], "must be 1 to 48"),
        (["--nfe", "99"], "must be 1 to 48"),
        (["--trajectories", "0"], "--trajectories must be at least 4"),
        (["--iterations", "0"], "--iterations must be positive"),
        (["--nfe", "4", "--base", "VPSDE()"], "--base VPSDE() is no solver"),
        (["--nfe", "4", "--grid", "DDIM()"], "--grid DDIM() is no grid"),
        (["--nfe", "4", "--base", "DDIMM()"], "did you mean DDIM"),
        (["--nfe", "4", "--base", "EulerMaruyama()"], "draws noise"),
    ],
)
def test_fit_refuses_mistakes(arguments, message, run, capsys):
    assert message in fails(capsys, "fit", "--workdir", run, *QUICK, *arguments)
    assert set(open_checkpoint(run).fitted()) == {2, 3}
