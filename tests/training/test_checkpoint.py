import copy
import os
import subprocess
import sys

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.training import checkpoint, load_denoiser, open_checkpoint, train


def write(workdir, step, value=0.0):
    return checkpoint.save_checkpoint(workdir, step, {"network": {"w": torch.full((3,), value)}}, {"config": {}}, keep=5)


def test_a_checkpoint_reads_back_to_the_bit_and_holds_no_pickle(tmp_path):
    path = write(tmp_path, 7, 0.1)
    assert torch.equal(open_checkpoint(tmp_path).tensors("network")["w"], torch.full((3,), 0.1))
    assert sorted(p.name for p in path.iterdir()) == ["network.safetensors", "state.json"]
    assert open_checkpoint(path).state["step"] == 7


@pytest.mark.parametrize("moment", ["open", "fsync", "rename"])
def test_a_death_while_writing_leaves_the_last_checkpoint_usable(moment, tmp_path, monkeypatch):
    write(tmp_path, 1, 1.0)

    def dies(*arguments):
        raise KeyboardInterrupt

    if moment == "open":
        monkeypatch.setattr(checkpoint, "_write", dies)
    else:
        monkeypatch.setattr(os, moment, dies)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 2, 2.0)
    monkeypatch.undo()
    assert open_checkpoint(tmp_path).state["step"] == 1
    write(tmp_path, 2, 2.0)
    assert open_checkpoint(tmp_path).tensors("network")["w"][0] == 2
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith("writing")] == []


def test_a_kill_while_writing_leaves_the_last_checkpoint_usable(tmp_path):
    write(tmp_path, 1, 1.0)
    code = (
        "import os, sys, pathlib, torch\n"
        "from sde_diffusion.training import checkpoint\n"
        "os.rename = lambda *paths: os.kill(os.getpid(), 9)\n"
        "checkpoint.save_checkpoint(pathlib.Path(sys.argv[1]), 2, {'network': {'w': torch.ones(3)}}, {'config': {}}, keep=1)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    assert open_checkpoint(tmp_path).state["step"] == 1
    assert open_checkpoint(tmp_path).tensors("network")["w"][0] == 1


def test_missing_and_damaged_checkpoints_are_named_with_a_cure(config, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*train one"):
        load_denoiser(tmp_path)
    train(config, tmp_path, progress=False)
    old, new = checkpoint.checkpoints(tmp_path)
    content = bytearray((new / "ema-0.999.safetensors").read_bytes())
    content[-1] ^= 1
    (new / "ema-0.999.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=f"00000020 is damaged .*checksum of ema-0.999.*use .*{old.name} instead"):
        load_denoiser(tmp_path)
    load_denoiser(old)
    (new / "ema-0.999.safetensors").unlink()
    with pytest.raises(ValueError, match="damaged"):
        load_denoiser(tmp_path)
    (new / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"state\.json"):
        load_denoiser(tmp_path)


@pytest.fixture
def trained(config, tmp_path):
    train(config, tmp_path, progress=False)
    return open_checkpoint(tmp_path)


def table(sde, nfe):
    """A table of `nfe` calls, as if it were fitted."""
    return sd.FittedSolver(sd.DDIM().tableau(sde, sd.karras(sde, nfe)), sde, "DDIM()", sd.FitErrors(2.0, 1.0, 0.2, 0.1))


def test_what_is_fitted_to_a_checkpoint_travels_with_its_averaged_weights(trained):
    denoiser = trained.denoiser()
    assert denoiser.fitted == trained.fitted() == {}
    made = table(denoiser.sde, 5)
    trained.keep_fitted(5, made)
    assert trained.fitted()[5].table == made.table
    assert trained.denoiser(ema=False).fitted == {}
    loaded = load_denoiser(trained.path)
    for denoiser in (loaded, copy.deepcopy(loaded).to(torch.float64), sd.NFECounter(loaded)):
        assert denoiser.fitted[5].table == made.table
        x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=denoiser.like.dtype)
        assert torch.equal(sd.sample(denoiser, nfe=5, x=x), sd.sample(denoiser, made, x=x))
    assert loaded.under(sd.VESDE()).fitted == {}
    assert loaded.state_dict().keys() == trained.denoiser(ema=False).state_dict().keys()


def test_a_fitted_table_is_replaced_as_a_whole_and_only_when_told_to(trained, monkeypatch):
    sde = trained.denoiser().sde
    trained.keep_fitted(5, table(sde, 5))
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        trained.keep_fitted(5, table(sde, 4))
    monkeypatch.setattr(os, "replace", lambda *paths: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trained.keep_fitted(5, table(sde, 4), overwrite=True)
    assert trained.fitted()[5].nfe == 5
    monkeypatch.undo()
    trained.keep_fitted(5, table(sde, 4), overwrite=True)
    assert {nfe: solver.nfe for nfe, solver in trained.fitted().items()} == {5: 4}
    (trained.path / "fitted" / "6.json").write_text("{}")
    with pytest.raises(ValueError, match=r"6\.json holds no fitted solver"):
        trained.denoiser()


def test_the_trajectories_of_a_checkpoint_are_solved_once_and_those_of_others_refused(trained, monkeypatch):
    first = trained.trajectories(8)
    assert first.states.shape[2:] == (2,)
    monkeypatch.setattr(sd.Trajectories, "generate", lambda *arguments, **options: pytest.fail("solved again"))
    assert torch.equal(trained.trajectories(8).states, first.states)
    for n, seed in ((9, 0), (8, 1)):
        with pytest.raises(ValueError, match=f"holds 8 paths of seed 0, not {n} of seed {seed}; take those with n=8, seed=0, or replace"):
            trained.trajectories(n, seed=seed)
    monkeypatch.undo()
    assert not torch.equal(trained.trajectories(8, seed=1, overwrite=True).states[0], first.states[0])
    (trained.path / "trajectories.json").unlink()  # as after a death while writing
    assert torch.equal(trained.trajectories(8).states, first.states)
