import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
benchmark = importlib.import_module("work_precision")


def test_it_draws_and_tabulates_each_model_and_overwrites_nothing(tmp_path, monkeypatch, capsys):
    arguments = ["work_precision.py", "--out", str(tmp_path), "--fast", "--models", "ring"]
    monkeypatch.setattr(sys, "argv", arguments)
    benchmark.main()
    assert (tmp_path / "ring.png").stat().st_size > 10_000
    assert len((tmp_path / "ring.csv").read_text().splitlines()) > 100
    assert "auto" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="exists; choose another --out"):
        benchmark.main()
