import json

from sde_diffusion.cli.main import main


def test_samples_of_no_class_have_the_likelihood_of_the_null_class(write_run, tmp_path):
    run, out = write_run(tmp_path / "run", classes=10, label_dropout=0.1), tmp_path / "x"
    options = ("--n", "0", "--likelihood", "--likelihood-n", "2", "--likelihood-probes", "1", "--out", str(out))
    assert main(["evaluate", "--workdir", str(run), "--classes", "none", *options]) == 0
    found = json.loads((out / "report.json").read_text())["likelihood"]
    assert (found["n"], found["dimensions"], found["dequantization"]) == (2, 64, "truncated_normal")
