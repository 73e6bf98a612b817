import os
import subprocess
import sys

import pytest
import torch

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
    content = bytearray((new / "ema.safetensors").read_bytes())
    content[-1] ^= 1
    (new / "ema.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=f"00000020 is damaged .*checksum of ema.*use .*{old.name} instead"):
        load_denoiser(tmp_path)
    load_denoiser(old)
    (new / "ema.safetensors").unlink()
    with pytest.raises(ValueError, match="damaged"):
        load_denoiser(tmp_path)
    (new / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"state\.json"):
        load_denoiser(tmp_path)
