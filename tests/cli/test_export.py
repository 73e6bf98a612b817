import re

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.cli.main import main
from sde_diffusion.interop import load_exported
from sde_diffusion.training import load_denoiser

CONFIG = """
from sde_diffusion.training import default_config


def get_config():
    config = default_config()
    config.update({"network": "MLP(dim=2, width=16, depth=1)", "data": "ring", "steps": 4, "batch_size": 16})
    config.conditioning = "TimeLabel(999.0)"
    return config
"""
X, T = torch.tensor([[0.3, -0.4], [1.0, 2.0]]), torch.tensor([0.2, 0.7])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    (folder / "tiny.py").write_text(CONFIG)
    assert main(["train", "--config", str(folder / "tiny.py"), "--workdir", str(folder / "run")]) == 0
    return folder / "run"


def test_a_run_becomes_a_folder_with_a_model_card(workdir, tmp_path, capsys):
    out = tmp_path / "model"
    assert main(["export", "--workdir", str(workdir), "--out", str(out), "--metric", "W2=0.1", "--license", "mit"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    denoiser = sd.Denoiser.from_pretrained(out)
    assert denoiser.conditioning == sd.TimeLabel(999.0)
    assert torch.equal(denoiser(X, T), load_denoiser(workdir)(X, T))
    card = (out / "README.md").read_text()
    for words in ('license: "mit"', "`ring`: samples of shape (2,)", "| W2 | 0.1 |", "after 4 steps of 16 samples", "`VPSDE("):
        assert words in card


def test_a_run_becomes_a_program(workdir, tmp_path):
    out = tmp_path / "model.pt2"
    assert main(["export", "--workdir", str(workdir), "--out", str(out)]) == 0
    torch.testing.assert_close(load_exported(out)(X, T), load_denoiser(workdir)(X, T), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "{}"], "holds a model already; add --overwrite"),
        (["--out", "{}/model.pt2", "--license", "mit"], "a program has no model card"),
        (["--out", "{}/new", "--metric", "good"], "write NAME=VALUE"),
    ],
)
def test_mistakes_end_in_one_message(arguments, message, workdir, tmp_path, capsys):
    out = tmp_path / "model"
    assert main(["export", "--workdir", str(workdir), "--out", str(out)]) == 0
    capsys.readouterr()
    try:
        code = main(["export", "--workdir", str(workdir), *(a.format(out) for a in arguments)])
    except SystemExit as exit_:
        code = exit_.code
    error = capsys.readouterr().err
    assert code == 2
    assert re.search(message, error)
