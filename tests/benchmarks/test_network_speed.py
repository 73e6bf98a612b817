import importlib
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
bench = importlib.import_module("network_speed")


def test_one_repetition_of_ours_is_measured_and_printed(capsys):
    with torch.random.fork_rng(devices=[]):
        contestants = bench.ours(8, "8x8x1")
    bench.measure(contestants, torch.zeros(bench.BATCH, 1, 8, 8), 2)
    bench.report(contestants, "8x8x1, width 8")
    out = capsys.readouterr().out
    assert [c.name for c in contestants] == ["ours ddpm", "ours ddpmpp", "ours ncsnpp", "ours slim"]
    assert all(len(c.forward) == len(c.step) == 2 and c.flops > 0 for c in contestants)
    assert out.count("| ours ") == 4
