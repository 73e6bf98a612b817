import importlib
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
bench = importlib.import_module("training_speed")


def test_steps_of_ours_are_measured_and_train(capsys):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trainers = bench.ours(8, "8x8x1")
        bench.measure(trainers, bench.images("8x8x1", "cpu"), 2, warm=1)
    bench.report_flags(trainers)
    assert [t.name for t in trainers] == ["ours ddpm", "ours ddpmpp", "ours ncsnpp", "ours slim"]
    for t in trainers:
        assert len(t.whole) == len(t.update) == 2
        assert 0 < sum(t.update) < sum(t.whole)
        assert len(t.losses) == 3
        assert t.network.last.weight.any()  # zero at first
    assert capsys.readouterr().out.count("| ours ") == 4


def test_every_flag_makes_a_step_of_the_same_network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trainers = [t for t in bench.flags(8, "8x8x1", "cpu") if t.name != "compiled"]
        bench.measure(trainers, bench.images("8x8x1", "cpu"), 1, warm=0)
    parameters = {sum(p.numel() for p in t.network.parameters()) for t in trainers}
    assert len(parameters) == 1
    assert all(0.5 < t.losses[0] < 2 for t in trainers)


def test_the_table_compares_at_equal_flops_with_the_neighbour_that_does_most_per_second(capsys):
    row = bench.Row
    rows = [
        row("ours", 10**6, 2 * 10**9, None, 0, whole=[0.1] * 4, update=[0.005] * 4),
        row("quick", 10**6, 10**9, None, 0, whole=[0.1] * 4, update=[0.01] * 4),
        row("slow", 10**6, 10**9, None, 0, whole=[0.2] * 4, update=[0.01] * 4),
    ]
    bench.report(rows, peak=100.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("| over quick |")
    assert [line.split("|")[-2].strip() for line in lines[3:]] == ["2.00", "1.00", "0.50"]
    assert lines[3].split("|")[6].strip() == "60.0"
    assert lines[3].split("|")[8].strip() == "5.0%"
