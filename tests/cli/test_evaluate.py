import json

import pytest
from PIL import Image

from sde_diffusion.cli.main import main
from sde_diffusion.evaluation.report import Report
from sde_diffusion.evaluation.shards import load_shards

QUICK = ("--steps", "2", "--n", "24", "--resamples", "4", "--metrics", "frechet,one_nn_accuracy", "--features", "pixels")


def evaluate(run, *arguments):
    assert main(["evaluate", "--workdir", str(run), *QUICK, *map(str, arguments)]) == 0


def read(folder):
    return Report.from_json(json.loads((folder / "report.json").read_text()))


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory):
    """A folder with a report, a curve included."""
    out = tmp_path_factory.mktemp("evaluated") / "report"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sde_diffusion.cli.evaluate.CURVE_CALLS", (3, 4))
        evaluate(run, "--curve", "--solver", "DDIM()", "--out", out)
    return out


def test_evaluate_prints_metrics_with_interval_and_floor(run, tmp_path, capsys):
    evaluate(run, "--solver", "DDIM()", "--out", tmp_path / "x")
    header, _, row, _, columns, _, frechet, accuracy, *_ = capsys.readouterr().out.splitlines()
    assert header.split() == ["solver", "NFE", "seconds", "samples"]
    assert row.split()[:2] == ["DDIM()", "2"]
    assert columns.split() == ["metric", "features", "value", "95", "%", "interval", "floor", "x", "floor", "ideal"]
    assert frechet.split()[:2] == ["frechet", "pixels"]
    assert accuracy.split()[-1] == "0.5"


def test_the_report_says_what_was_run_and_what_was_found(evaluated, run):
    report = read(evaluated)
    assert report.run["step"] == 3
    assert report.run["workdir"] == str(run)
    assert (report.run["solver"], report.run["nfe"], report.run["n"], report.run["seed"]) == ("DDIM(eta=0.0)", 2, 24, 0)
    assert set(report.run) >= {"command", "hardware", "seconds", "versions", "processes"}
    assert report.data == {"name": "digits", "shape": [1, 8, 8], "train": 1437, "held_out": 360}
    assert report.config["batch_size"] == 128
    assert [m.metric for m in report.measurements] == ["frechet", "one_nn_accuracy"]
    assert all(m.n == 24 and m.low <= m.value <= m.high for m in report.measurements)
    assert len(report.losses.log_snr) == len(report.losses.train) == len(report.losses.held_out)


def test_the_curve_has_each_solver_at_each_number_of_calls(evaluated):
    report = read(evaluated)
    found = {(p.solver, p.nfe) for p in report.curve}
    assert found == {*((solver, nfe) for solver in ("auto", "DDIM()", "EulerMaruyama()") for nfe in (3, 4)), ("Heun()", 2), ("Heun()", 4)}
    assert {p.metric for p in report.curve} == {"frechet"}


def test_every_picture_of_the_report_is_there(evaluated):
    pictures = dict(read(evaluated).pictures)
    assert set(pictures.values()) == {"samples.png", "neighbours.png", "loss_by_level.png", "curve.png", "loss.png"}
    text = (evaluated / "report.md").read_text()
    for title, file in pictures.items():
        assert Image.open(evaluated / file).width > 100
        assert f"![{title}]({file})" in text


def test_the_samples_stay_with_the_report(evaluated):
    assert load_shards(evaluated / "samples").samples.shape == (24, 1, 8, 8)


def test_the_report_lies_in_the_workdir_by_default_and_is_not_overwritten_unasked(run, refusal):
    evaluate(run)
    (out,) = (run / "evaluation").glob("0*")
    assert out.name == "00000003-DDIM-eta=0.0-steps=2-seed=0-n=24"
    (out / "report.json").write_text("mine")
    assert "--overwrite" in refusal("evaluate", "--workdir", run, *QUICK)
    assert (out / "report.json").read_text() == "mine"
    evaluate(run, "--overwrite")
    assert read(out).run["n"] == 24


def test_labelled_data_give_a_histogram_of_classes(run, tmp_path):
    evaluate(run, "--metrics", "class_variation,class_p", "--out", tmp_path / "x")
    report = read(tmp_path / "x")
    assert sum(report.classes.counts) == 24
    assert sum(report.classes.expected) == pytest.approx(24)
    assert report.classes.p_value == report.measurements[1].value
    assert (tmp_path / "x" / "classes.png").exists()


def test_some_classes_of_a_conditional_model_are_compared_with_those_classes_only(write_run, tmp_path):
    conditional = write_run(tmp_path / "run", classes=10)
    evaluate(conditional, "--classes", "3,5", "--out", tmp_path / "x")
    report = read(tmp_path / "x")
    assert report.data["train"] + report.data["held_out"] == 183 + 182  # threes and fives among scikit-learn's digits
    assert report.classes is None


LIKELIHOOD = ("--likelihood", "--likelihood-n", "2", "--likelihood-probes", "1")


def test_the_likelihood_alone_needs_no_samples(run, tmp_path, capsys):
    assert main(["evaluate", "--workdir", str(run), "--n", "0", *LIKELIHOOD, "--out", str(tmp_path / "x")]) == 0
    printed = capsys.readouterr().out
    report = read(tmp_path / "x")
    assert not (tmp_path / "x" / "samples").exists()
    found = report.likelihood
    assert (found.metric, found.n, found.dimensions, found.levels, found.probes) == ("bits_per_dim", 2, 64, 17, 1)
    assert found.dequantization == "truncated_normal"  # the digits lie on the grid unless config.data says dequantize=True
    assert [m.metric for m in report.measurements] == ["bits_per_dim"]
    assert report.run["solver"] == "likelihood"
    assert f"{found.value:.4g} bits per dimension on 2 held-out samples" in printed
    assert "## Likelihood" in (tmp_path / "x" / "report.md").read_text()


def test_the_likelihood_of_a_conditional_model_is_that_of_the_labels(write_run, tmp_path):
    conditional = write_run(tmp_path / "run", classes=10, data="Digits(dequantize=True)")
    arguments = ["--classes", "all", "--solver", "DDIM()", *LIKELIHOOD, "--out", tmp_path / "x"]
    evaluate(conditional, *arguments)
    report = read(tmp_path / "x")
    assert [m.metric for m in report.measurements] == ["frechet", "one_nn_accuracy", "bits_per_dim"]
    assert report.likelihood.dequantization == "uniform"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--n", "0"), ["--n must be at least 2", "or 0 with --likelihood alone"]),
        (("--n", "0", "--likelihood", "--curve"), ["--curve measures samples", "leave one of them out"]),
        (("--likelihood", "--likelihood-n", "1"), ["--likelihood-n must be at least 2"]),
        (("--n", "1"), ["--n must be at least 2"]),
        (("--metrics", "fid"), ["unknown metric 'fid'", "frechet"]),
        (("--solver", "DDIMM()"), ["did you mean DDIM"]),
        (("--classes", "3"), ["takes no classes"]),
    ],
)
def test_mistakes_are_refused_before_work(arguments, parts, run, refusal, tmp_path):
    message = refusal("evaluate", "--workdir", run, *QUICK, *arguments, "--out", tmp_path / "x")
    assert all(part in message for part in parts), message
    assert not (tmp_path / "x").exists()


def test_an_exact_trace_of_too_many_dimensions_is_refused_before_work(write_run, refusal, tmp_path):
    large = write_run(tmp_path / "run", data="Patches()", network="UNet(UNetConfig(channels=3, width=8))", shape=(3, 16, 16))
    message = refusal("evaluate", "--workdir", large, *QUICK, "--likelihood", "--likelihood-probes", "0", "--out", tmp_path / "x")
    assert "at most 256 dimensions, and samples have 768" in message
    assert not (tmp_path / "x").exists()


def test_missing_data_are_missed_before_samples_are_drawn(write_run, refusal, tmp_path):
    lost = write_run(tmp_path / "run", data=str(tmp_path / "lost.npy"))
    assert "lost.npy" in refusal("evaluate", "--workdir", lost, *QUICK, "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()
