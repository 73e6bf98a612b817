import os

import numpy as np
import pytest
import torch

from sde_diffusion.evaluation import shards
from sde_diffusion.evaluation.shards import Ranks, load_shards, read_shards, write_shards
from sde_diffusion.noise import PerSample


def draw(indices):
    """Images of which number i depends on i alone."""
    return PerSample(indices)(torch.empty(len(indices), 1, 4, 4)).clamp(-1, 1)


def write(folder, n=10, *, batch=4, **options):
    return write_shards(folder, draw, n=n, batch=batch, settings={"seed": 0}, **options)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("format", shards.FORMATS)
def test_the_bytes_do_not_depend_on_the_number_of_processes(format, tmp_path):
    write(tmp_path / "one", format=format)
    for rank in range(3):
        write(tmp_path / "three", format=format, ranks=Ranks(rank, 3))
    assert content(tmp_path / "one") == content(tmp_path / "three")
    assert len(content(tmp_path / "one")) == 1 + (3 if format == "npz" else 10)


def test_what_is_loaded_is_what_was_drawn_one_chunk_at_a_time(tmp_path):
    write(tmp_path / "x", labels=lambda indices: torch.tensor(indices) % 3)
    assert [len(shard.samples) for shard in read_shards(tmp_path / "x")] == [4, 4, 2]
    loaded = load_shards(tmp_path / "x")
    assert torch.equal(loaded.samples, draw(range(10)))
    assert torch.equal(loaded.indices, torch.arange(10))
    assert torch.equal(loaded.labels, torch.arange(10) % 3)


def test_images_are_loaded_to_within_half_a_level_of_256(tmp_path):
    write(tmp_path / "x", format="png")
    assert (load_shards(tmp_path / "x").samples - draw(range(10))).abs().max() <= 1 / 255 + 1e-6


@pytest.mark.parametrize("format", shards.FORMATS)
def test_only_what_is_missing_is_drawn(format, tmp_path):
    assert write(tmp_path, format=format) == 10
    before = content(tmp_path)
    assert write(tmp_path, format=format) == 0
    (tmp_path / "000001.npz" if format == "npz" else tmp_path / "000005.png").unlink()
    (tmp_path / "writing-000001.npz").write_text("half")  # of a process that was killed
    assert write(tmp_path, format=format) == 4
    assert content(tmp_path) == before


def test_the_number_of_samples_may_grow_but_not_shrink(tmp_path):
    write(tmp_path / "x", n=6)
    assert write(tmp_path / "x", n=11) == 7  # the second chunk had two samples, and is drawn again
    write(tmp_path / "y", n=11)
    assert content(tmp_path / "x") == content(tmp_path / "y")
    with pytest.raises(FileExistsError, match="n: 11 -> 5, which may only grow"):
        write(tmp_path / "x", n=5)


def test_other_settings_are_refused_by_name_unless_they_may_overwrite(tmp_path):
    write(tmp_path)
    before = content(tmp_path)
    with pytest.raises(FileExistsError, match=r"batch: 4 -> 5; seed: 0 -> 1\); add --overwrite"):
        write_shards(tmp_path, draw, n=10, batch=5, settings={"seed": 1})
    assert content(tmp_path) == before
    write(tmp_path, n=5, batch=5, overwrite=True)
    assert set(content(tmp_path)) == {"manifest.json", "000000.npz"}
    write(tmp_path, n=5, batch=5, made={"path": "elsewhere"})  # notes may differ


def test_folders_of_other_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        write(tmp_path)
    with pytest.raises(FileExistsError, match="is a file"):
        write(tmp_path / "thesis.txt")
    assert content(tmp_path) == {"thesis.txt": b"mine"}


def test_a_full_disk_is_an_error_and_leaves_no_half_file(tmp_path, monkeypatch):
    synchronise, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:  # the manifest, chunk 0, chunk 1
            raise OSError(28, "No space left on device")
        synchronise(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device; free some space"):
        write(tmp_path)
    assert set(content(tmp_path)) == {"manifest.json", "000000.npz"}
    with pytest.raises(ValueError, match=r"lacks some of the samples 4\.\.7"):
        load_shards(tmp_path)
    assert write(tmp_path) == 6


def test_samples_without_a_picture_and_numbers_that_are_not_positive_are_refused(tmp_path):
    with pytest.raises(ValueError, match="1 or 3 channels"):
        write_shards(tmp_path, lambda indices: torch.zeros(len(indices), 2), n=2, settings={}, format="png")
    with pytest.raises(ValueError, match="must be positive"):
        write(tmp_path, n=0)
    with pytest.raises(ValueError, match="npz or png"):
        write(tmp_path, format="gif")
    with pytest.raises(FileNotFoundError, match="no samples in"):
        load_shards(tmp_path / "nowhere")


def test_a_chunk_is_a_file_that_numpy_reads(tmp_path):
    write(tmp_path)
    with np.load(tmp_path / "000002.npz") as chunk:
        assert chunk["samples"].shape == (2, 1, 4, 4)
        assert chunk["indices"].tolist() == [8, 9]
