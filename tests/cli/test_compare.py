import dataclasses
import json

import pytest
from PIL import Image

from sde_diffusion.cli.compare import short_names, verdict
from sde_diffusion.cli.main import main
from sde_diffusion.evaluation.measurement import Measurement
from sde_diffusion.evaluation.report import Report

QUICK = ("--steps", "2", "--n", "24", "--resamples", "4", "--metrics", "frechet,one_nn_accuracy", "--features", "pixels")


@pytest.fixture(scope="module")
def pair(write_run, tmp_path_factory):
    """Two evaluated runs that differ in seed and learning rate."""
    folder = tmp_path_factory.mktemp("pair")
    for name, seed, lr in (("a", 0, 1e-3), ("b", 1, 2e-3)):
        write_run(folder / name, seed=seed, lr=lr)
        assert main(["evaluate", "--workdir", str(folder / name), *QUICK]) == 0
    return folder / "a", folder / "b"


def changed(workdir, folder, **fields):
    """A copy of a run's report with other fields."""
    (path,) = (workdir / "evaluation").glob("*/report.json")
    report = Report.from_json(json.loads(path.read_text()))
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(dataclasses.replace(report, **fields).to_json()))
    return folder, report


def test_compare_shows_metrics_side_by_side_and_what_differs(pair, capsys):
    capsys.readouterr()
    assert main(["compare", *map(str, pair)]) == 0
    out = capsys.readouterr().out
    header, _, frechet, _ = out.splitlines()[:4]
    assert header.split() == ["metric", "features", "a", "b", "floor", "intervals"]
    assert frechet.split()[:2] == ["frechet", "pixels"]
    assert frechet.split()[-1] in ("overlap", "disjoint")
    assert any(line.split() == ["lr", "0.001", "0.002"] for line in out.splitlines())
    assert "batch_size" not in out


def test_compare_writes_text_json_and_pictures(pair, refusal, tmp_path, capsys):
    command = ["compare", *map(str, pair), "--out", str(tmp_path / "x")]
    assert main(command) == 0
    text = (tmp_path / "x" / "compare.md").read_text()
    for picture in ("samples.png", "loss_by_level.png", "loss.png"):
        assert f"({picture})" in text
        assert Image.open(tmp_path / "x" / picture).width > 100
    assert set(json.loads((tmp_path / "x" / "compare.json").read_text())["runs"]) == {"a", "b"}
    assert "--overwrite" in refusal(*command)


def test_the_newest_report_of_a_workdir_counts_and_a_report_may_be_named(pair, capsys, tmp_path):
    folder, _ = changed(pair[0], tmp_path / "named")
    assert main(["compare", str(folder), str(pair[0])]) == 0
    assert "the configurations are equal" in capsys.readouterr().out


def test_other_numbers_of_samples_and_other_metrics_are_warned_of(pair, tmp_path, capsys):
    _, report = changed(pair[0], tmp_path / "same")
    folder, _ = changed(pair[0], tmp_path / "fewer", run={**report.run, "n": 12}, measurements=report.measurements[:1])
    assert main(["compare", str(folder), str(pair[0])]) == 0
    out = capsys.readouterr().out
    assert "has 12 samples" in out
    assert "do not both have one_nn_accuracy in pixels" in out


def test_other_data_and_nothing_in_common_are_refused(pair, refusal, tmp_path):
    folder, report = changed(pair[0], tmp_path / "other", data={"name": "moons"})
    assert "say nothing about each other" in refusal("compare", folder, pair[0])
    folder, _ = changed(pair[0], tmp_path / "none", measurements=(dataclasses.replace(report.measurements[0], metric="kid"),))
    assert "no metric in common" in refusal("compare", folder, pair[0])


def test_runs_without_a_report_are_refused_with_the_command_that_makes_one(pair, refusal, tmp_path):
    assert f"sde-diffusion evaluate --workdir {tmp_path}" in refusal("compare", pair[0], tmp_path)
    assert "at least 2 runs" in refusal("compare", pair[0])


def measurement(low, high):
    return Measurement("frechet", (low + high) / 2, low, high, None, 0.0, "pixels", 10)


def test_intervals_overlap_or_do_not():
    near, far, middle = measurement(0, 2), measurement(3, 4), measurement(1, 3)
    assert verdict([near, far]) == "disjoint"
    assert verdict([near, middle]) == verdict([middle, far]) == "overlap"
    assert verdict([near, middle, far]) == "1 of 3 pairs disjoint"
    assert verdict([near, None]) == verdict([near, measurement(1, 1)]) == "-"


def test_names_are_what_distinguishes_paths(tmp_path):
    assert short_names([tmp_path / "a" / "x", tmp_path / "b" / "x"]) == ["a", "b"]
    assert len(set(short_names([tmp_path / "a"] * 2))) == 2
