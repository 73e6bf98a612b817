import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from sde_diffusion.cli.main import main
from sde_diffusion.evaluation.shards import load_shards

STEPS = ("--steps", "2")
MODULE = "sde_diffusion.cli.main"


@pytest.fixture(scope="module")
def conditional(write_run, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "conditional", classes=10, label_dropout=0.1)


def sample(run, *arguments):
    assert main(["sample", "--workdir", str(run), *STEPS, *map(str, arguments)]) == 0


def array(path):
    with np.load(path) as content:
        return dict(content)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_folder_holds_the_samples_that_a_file_holds(run, tmp_path, capsys):
    sample(run, "--n", 10, "--batch", 4, "--out", tmp_path / "folder")
    sample(run, "--n", 10, "--batch", 4, "--out", tmp_path / "file.npz")
    assert set(content(tmp_path / "folder")) == {"manifest.json", "000000.npz", "000001.npz", "000002.npz"}
    assert (load_shards(tmp_path / "folder").samples.numpy() == array(tmp_path / "file.npz")["samples"]).all()
    assert capsys.readouterr().out.split() == [str(tmp_path / "folder"), str(tmp_path / "file.npz")]


def test_a_sample_depends_on_its_index_and_the_seed_alone_up_to_rounding_of_another_batch(run, tmp_path):
    options = ("--solver", "EulerMaruyama()")
    sample(run, *options, "--n", 9, "--out", tmp_path / "all.npz")
    sample(run, *options, "--indices", "7,2", "--out", tmp_path / "two.npz")
    sample(run, *options, "--seed", 1, "--n", 9, "--out", tmp_path / "other.npz")
    all_, two, other = (array(tmp_path / f"{name}.npz") for name in ("all", "two", "other"))
    assert two["indices"].tolist() == [7, 2]
    np.testing.assert_allclose(two["samples"], all_["samples"][[7, 2]], atol=1e-4)
    assert all(np.abs(a - b).max() > 0.1 for a in all_["samples"] for b in other["samples"])


def test_a_folder_continues_with_more_samples_and_refuses_other_settings(run, refusal, tmp_path):
    command = ("sample", "--workdir", run, "--batch", 4, "--out", tmp_path / "x")
    sample(run, "--batch", 4, "--n", 4, "--out", tmp_path / "x")
    first = content(tmp_path / "x")["000000.npz"]
    sample(run, "--batch", 4, "--n", 8, "--out", tmp_path / "x")
    assert content(tmp_path / "x")["000000.npz"] == first
    message = refusal(*command, "--n", 8, "--steps", 3, "--seed", 1)
    assert "seed: 0 -> 1; steps: 2 -> 3" in message
    assert "--overwrite" in message
    assert "n: 8 -> 6" in refusal(*command, *STEPS, "--n", 6)
    sample(run, "--batch", 4, "--n", 3, "--seed", 1, "--overwrite", "--out", tmp_path / "x")
    assert load_shards(tmp_path / "x").samples.shape == (3, 1, 8, 8)


def test_a_folder_remembers_which_weights_and_refuses_others(run, write_run, refusal, tmp_path):
    sample(run, "--n", 2, "--out", tmp_path / "x")
    manifest = json.loads((tmp_path / "x" / "manifest.json").read_text())
    assert set(manifest["weights"]) == {"network", "ema-0.999", "ema-0.9"}
    other = write_run(tmp_path / "other", seed=1)
    assert "weights: " in refusal("sample", "--workdir", other, *STEPS, "--n", 2, "--out", tmp_path / "x")


def test_images_are_files_of_their_own(run, tmp_path):
    sample(run, "--n", 3, "--batch", 2, "--format", "png", "--out", tmp_path / "x")
    assert [name for name in content(tmp_path / "x") if name != "manifest.json"] == ["000000.png", "000001.png", "000002.png"]
    assert Image.open(tmp_path / "x" / "000002.png").size == (8, 8)


def test_classes_are_taken_in_turn_and_guidance_strengthens_them(conditional, tmp_path):
    for name, options in {
        "all": ("--classes", "all"),
        "three": ("--classes", "3"),
        "guided": ("--classes", "3", "--guidance", "2"),
        "unguided": ("--classes", "3", "--guidance", "1"),
        "none": ("--classes", "none"),
        "ignored": ("--classes", "3", "--guidance", "0"),
    }.items():
        sample(conditional, "--n", 12, *options, "--out", tmp_path / f"{name}.npz")
    found = {path.stem: array(path) for path in tmp_path.iterdir()}
    assert found["all"]["labels"].tolist() == [*range(10), 0, 1]
    assert found["three"]["labels"].tolist() == [3] * 12
    assert "labels" not in found["none"]
    np.testing.assert_allclose(found["all"]["samples"][3], found["three"]["samples"][3], atol=1e-4)
    assert np.abs(found["all"]["samples"][4] - found["three"]["samples"][4]).max() > 1e-3
    np.testing.assert_allclose(found["unguided"]["samples"], found["three"]["samples"], atol=1e-4)
    np.testing.assert_allclose(found["ignored"]["samples"], found["none"]["samples"], atol=1e-4)
    assert np.abs(found["guided"]["samples"] - found["three"]["samples"]).max() > 1e-3


def test_labels_lie_beside_the_samples_of_a_folder(conditional, tmp_path):
    for format in ("npz", "png"):
        sample(conditional, "--n", 5, "--batch", 2, "--classes", "1,8", "--format", format, "--out", tmp_path / format)
        assert load_shards(tmp_path / format).labels.tolist() == [1, 8, 1, 8, 1]


def test_averages_are_chosen_by_name_and_others_refused(run, refusal, tmp_path):
    found = {}
    for name in (None, "0.999", "0.9", "none"):
        sample(run, "--n", 2, *(() if name is None else ("--ema", name)), "--out", tmp_path / f"{name}.npz")
        found[name] = array(tmp_path / f"{name}.npz")["samples"]
    assert (found[None] == found["0.999"]).all()
    assert len({samples.tobytes() for samples in found.values()}) == 3
    for name in ("0.5", "mine"):
        assert name in refusal("sample", "--workdir", run, "--ema", name, "--out", tmp_path / "never.npz")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ((), ["was trained on 10 classes", "--classes all", "or none"]),
        (("--classes", "10"), ["0..9", "10"]),
        (("--classes", "x"), ["'x' is no list of labels"]),
        (("--classes", "none", "--guidance", "2"), ["none are given"]),
        (("--classes", "all", "--batch", "0"), ["--batch must be positive"]),
        (("--classes", "all", "--indices", "1,-2"), ["no list of numbers of samples"]),
    ],
)
def test_mistakes_with_a_conditional_model_are_refused_before_work(arguments, parts, conditional, refusal, tmp_path):
    message = refusal("sample", "--workdir", conditional, *arguments, "--out", tmp_path / "x.npz")
    assert all(part in message for part in parts), message
    assert not (tmp_path / "x.npz").exists()


def test_classes_of_a_model_without_and_null_classes_that_were_never_trained_are_refused(run, write_run, refusal, tmp_path):
    out = ("--out", tmp_path / "x.npz")
    assert "takes no classes" in refusal("sample", "--workdir", run, "--classes", "3", *out)
    assert "none are given" in refusal("sample", "--workdir", run, "--guidance", "2", *out)
    always = write_run(tmp_path / "always", classes=10, label_dropout=0.0)
    assert "label_dropout=0.1" in refusal("sample", "--workdir", always, "--classes", "all", "--guidance", 2, *out)
    assert "label_dropout=0.1" in refusal("sample", "--workdir", always, "--classes", "none", *out)


def test_indices_go_into_a_file_and_folders_of_others_are_left_alone(run, refusal, tmp_path):
    assert "--indices go into one file" in refusal("sample", "--workdir", run, "--indices", "3", "--out", tmp_path / "folder")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    assert "holds other files" in refusal("sample", "--workdir", run, "--out", tmp_path / "mine")


def test_samples_without_a_picture_are_refused_before_they_are_drawn(write_run, refusal, tmp_path):
    signals = write_run(tmp_path / "run", shape=(1, 64))
    for out in (("--out", tmp_path / "x.png"), ("--format", "png", "--out", tmp_path / "x")):
        assert "have no picture" in refusal("sample", "--workdir", signals, *out)
    assert not (tmp_path / "x").exists()


def command(run, out, n):
    return ["sample", "--workdir", str(run), *STEPS, "--number", str(n), "--batch", "4", "--out", str(out)]


@pytest.mark.slow  # two processes that import torch
def test_two_processes_write_the_bytes_that_one_writes(run, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", MODULE]
    done = subprocess.run([*launcher, *command(run, tmp_path / "two", 18)], env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "two")]
    sample(run, "--n", 18, "--batch", 4, "--out", tmp_path / "one")
    assert content(tmp_path / "one") == content(tmp_path / "two")


@pytest.mark.slow
def test_a_killed_process_leaves_whole_chunks_and_is_continued_to_the_same_bytes(run, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", MODULE, *command(run, tmp_path / "x", 800)], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "x" / "000002.npz").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    chunks = sorted(path.name for path in (tmp_path / "x").glob("0*.npz"))
    assert 3 <= len(chunks) < 200
    for name in chunks:
        assert array(tmp_path / "x" / name)["samples"].shape == (4, 1, 8, 8)
    before = {name: (tmp_path / "x" / name).stat().st_mtime_ns for name in chunks}
    for name in ("x", "y"):
        sample(run, "--n", 800, "--batch", 4, "--out", tmp_path / name)
    assert content(tmp_path / "x") == content(tmp_path / "y")
    assert before == {name: (tmp_path / "x" / name).stat().st_mtime_ns for name in chunks}
