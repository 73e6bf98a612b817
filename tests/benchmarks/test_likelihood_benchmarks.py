"""The likelihood benchmarks: rows, the limit they are measured by, and the digits' table."""

import argparse
import importlib
import math
import sys
from pathlib import Path

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.likelihood.dequantization import Quantization

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # as when the script is run: it imports its neighbours
likelihood = importlib.import_module("likelihood")
likelihood_digits = importlib.import_module("likelihood_digits")


def test_a_row_of_exact_traces_has_the_exact_log_density():
    entry = likelihood.Entry("ours exact", likelihood.VP, likelihood.Ours("exact"), seeds=1)
    row = likelihood.measure(entry, "ring2", 20, "float64", 1e-5)
    assert row.rms < 1e-3
    assert row.rms_data < 2e-3
    assert row.nfe <= 80
    assert row.spread == 0


def test_an_opaque_denoiser_hides_the_trace_and_nothing_else():
    denoiser, x = likelihood.ring(likelihood.VP), likelihood.data("ring2", 4)
    hidden = likelihood.Opaque(denoiser)
    assert type(hidden).jacobian_trace is sd.Denoiser.jacobian_trace
    ours = likelihood.Ours("exact")
    torch.testing.assert_close(ours.result(hidden, x).nats, ours.result(denoiser, x).nats, rtol=0, atol=1e-8)


@pytest.mark.parametrize("sde", [likelihood.VP, likelihood.VE, likelihood.FLOW], ids=lambda s: type(s).__name__)
def test_a_row_with_our_own_t_min_is_compared_with_the_density_there(sde):
    row = likelihood.measure(likelihood.Entry("", sde, likelihood.Ours("exact", t_min=None), seeds=1), "ring2", 10, "float64", 1e-5)
    assert row.rms < 1e-3


def test_the_error_of_our_one_probe_is_divided_by_that_of_the_neighbours_with_its_law(capsys):
    common = {"problem": "mix64", "precision": "float64", "rtol": 1e-5, "points": 1, "nfe": 1, "calls": 1, "over_limit": 1.0}
    rest = {"bias": 0.0, "rms_data": 0.0, "spread": 0.0}
    figures = {
        ("ours rademacher 1", "VESDE"): (0.6, 1.0),
        ("ours gaussian 1", "VESDE"): (0.7, 1.0),
        ("k-diffusion gaussian", "EDMSDE"): (7.0, 2.0),
        ("score_sde rademacher", "VPSDE"): (1.8, 2.0),  # with no row of ours for its process
    }
    rows = [
        likelihood.Row(name=name, process=process, rms=rms, seconds=seconds, **common, **rest)
        for (name, process), (rms, seconds) in figures.items()
    ]
    likelihood.at_equal_cost(rows)
    assert capsys.readouterr().out.splitlines()[3:] == ["| mix64 | EDMSDE | float64 | 1e-05 | k-diffusion gaussian | 0.1 | 0.5 |"]


@pytest.mark.slow
def test_every_part_of_the_benchmark_prints_a_table(capsys):
    likelihood.oracle(["ring2"], 4)
    likelihood.gradient(["ring2"], 3)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("|---") for line in lines) == 2
    assert all("nan" not in line for line in lines)


def test_the_bound_of_the_digits_table_is_that_of_the_density_for_dequantised_data():
    quantization, denoiser = Quantization(256), sd.GaussianDenoiser([0.0, 0.1], 0.2, sd.VPSDE())
    x = denoiser.sample_data(200, generator=torch.Generator().manual_seed(0))
    bits = likelihood_digits.bound(denoiser, x, quantization, argparse.Namespace(samples=20))
    truth = -denoiser.log_prob(x, 0.0) / (2 * math.log(2)) - math.log2(quantization.width)
    assert (bits - truth).mean().item() == pytest.approx(0, abs=4 * likelihood_digits.error(bits - truth))


@pytest.mark.parametrize("sde", [sd.VPSDE(), sd.DDPMChain(sd.linear_betas(100, 1e-3, 0.2))], ids=lambda s: type(s).__name__)
def test_the_bound_of_the_digits_table_is_that_of_the_probabilities_for_data_on_the_grid(sde):
    # a model that knows that there are 8 points gives each log2(8) = 3 bits
    quantization = Quantization(17, dequantized=False)
    points = quantization.values(torch.randint(0, 17, (8, 2), generator=torch.Generator().manual_seed(0)))
    x = points.repeat(25, 1)
    bits = likelihood_digits.bound(sd.EmpiricalDenoiser(points, sde), x, quantization, argparse.Namespace(samples=100))
    assert bits.mean().item() == pytest.approx(3 / 2, abs=max(4 * likelihood_digits.error(bits), 0.02))


def test_an_interval_of_the_digits_table_is_the_means():
    assert likelihood_digits.cell(torch.tensor([1.0, 2.0, 3.0, 2.0])) == "2.000 [0.701, 3.299]"  # 3.182 * .8165/2
