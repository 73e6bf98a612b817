"""The figures, the panel and a cell of benchmarks/few_step.py on tiny settings."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
benchmark = importlib.import_module("few_step")


def test_the_trimmed_figure_leaves_out_the_largest_hundredth():
    reached = torch.ones(100, 2)
    reached[7] = 50.0
    found = benchmark.figures(reached, torch.zeros(100, 2))
    assert found == pytest.approx((((99 + 2500) / 100) ** 0.5, 1.0, 1.0))


def test_a_path_that_diverges_counts_as_infinite():
    assert benchmark.figures(torch.full((4, 1), torch.nan), torch.zeros(4, 1)).rms == torch.inf


def test_a_table_on_another_process_with_the_same_levels_is_the_same_sampler():
    denoiser = benchmark.problem("ring2", benchmark.RANGES["EDM"], 0)
    x = benchmark.starts(denoiser.sde, (4, 2), 1)
    grid = benchmark.sd.log_snr

    def ddim(denoiser, x, grid, noise):
        return benchmark.sd.sample(denoiser, benchmark.sd.DDIM(), x=x, grid=grid)

    for kind in ("VP", "EDM"):
        torch.testing.assert_close(
            benchmark.theirs(denoiser, x, ddim, kind, 5, grid, 5),
            benchmark.ours(denoiser, x, benchmark.sd.DDIM(), 5, grid),
            rtol=0,
            atol=1e-9,
        )


def test_more_calls_than_the_budget_are_refused():
    denoiser = benchmark.problem("ring2", benchmark.RANGES["VP"], 0)

    def wasteful(denoiser, x, grid, noise):
        return benchmark.sd.sample(denoiser, benchmark.sd.Heun(), x=x, grid=grid)

    with pytest.raises(ValueError, match="10 calls, not 5"):
        benchmark.theirs(denoiser, benchmark.starts(denoiser.sde, (2, 2), 1), wasteful, "VP", 5, benchmark.sd.log_snr, 5)


def test_a_cell_is_measured_and_a_missed_one_sets_the_exit_status(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "competitors", lambda nfe: [pair for _, pair in zip(range(3), _all(nfe), strict=False)])
    monkeypatch.setattr(benchmark, "fitted", lambda *_: {5: (benchmark.sd.DDIM(), 0.0)})  # which is no match for auto
    options = ["--problems", "ring2", "--budgets", "5", "--n", "16", "--trajectories", "16"]
    assert benchmark.main(options) == 1
    assert "missed: ring2/EDM at 5 calls" in capsys.readouterr().out


_all = benchmark.competitors
