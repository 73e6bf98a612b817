import dataclasses
import json
import math

import pytest
import torch

from sde_diffusion import VPSDE, GaussianDenoiser
from sde_diffusion.evaluation.classes import ClassCounts
from sde_diffusion.evaluation.levels import level_losses
from sde_diffusion.evaluation.likelihoods import HeldOutLikelihood, held_out_likelihood, quantization_of
from sde_diffusion.evaluation.measurement import Measurement
from sde_diffusion.evaluation.report import CurvePoint, Report, markdown_table, metric_cells
from sde_diffusion.losses import ConstantWeighting, DenoisingScoreMatching


def report():
    denoiser = GaussianDenoiser(torch.zeros(2), torch.ones(2), VPSDE())
    points = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    return Report(
        run={"solver": "DDIM()", "checkpoint": "runs/x/checkpoints/00000003", "n": 40, "versions": {"torch": "2"}, "seconds": 1.23456789},
        data={"name": "moons", "shape": [2]},
        config={"lr": 1e-3, "loss": "DenoisingScoreMatching()"},
        measurements=(Measurement("frechet", 2.0, 1.5, 2.5, 1.0, 0.0, "pixels", 40),),
        losses=level_losses(denoiser, DenoisingScoreMatching(), points[:20], points[20:], bins=3),
        curve=(CurvePoint("DDIM()", 5, "frechet", 3.0, 1.5),),
        classes=ClassCounts((30, 10), (20.0, 20.0), 0.0016),
        likelihood=HeldOutLikelihood("bits_per_dim", 2.5, 2.25, 2.75, 40, 2, 17, "uniform", 4, 0.125, 1e-5, 99.6),
        pictures=(("Samples", "samples.png"),),
    )


def test_a_report_survives_json():
    written = json.loads(json.dumps(report().to_json()))
    assert Report.from_json(written) == report()
    bare = dataclasses.replace(report(), losses=None, curve=(), classes=None, likelihood=None, pictures=())
    assert Report.from_json(json.loads(json.dumps(bare.to_json()))) == bare


def test_a_report_that_knows_no_likelihood_is_read():
    written = report().to_json()
    del written["likelihood"]
    assert Report.from_json(written).likelihood is None


def test_a_report_of_another_format_is_refused():
    with pytest.raises(ValueError, match=r"has format 9.*evaluate again"):
        Report.from_json({**report().to_json(), "format": 9})


def test_the_text_has_every_part_of_the_report():
    text = report().to_markdown()
    assert text.splitlines()[0] == "# DDIM() on runs/x/checkpoints/00000003"
    for part in ("- versions: torch 2", "- seconds: 1.235", "- data name: moons", "![Samples](samples.png)", "- lr: `0.001`"):
        assert part in text
    assert "| frechet |   pixels |     2 |    1.5 .. 2.5 |     1 |    2.00 |     0 |" in text
    assert "- frechet: distance of means" in text
    assert "| 0     |      30 |     20.0 | +3.2 |" in text  # (30 - 20)/sqrt(40/4)
    assert "| DDIM() |   5 | frechet |     3 |    2.00 |" in text


def test_the_text_says_what_the_likelihood_is_and_how_it_was_found():
    text = report().to_markdown()
    for part in ("## Likelihood", "2.5 bits per dimension on 40 held-out samples, 95 % interval 2.25 .. 2.75.", "An upper bound",
                 "17 levels", "by uniform noise", "4 random probes", "100 network calls", "standard error of 0.12 in"):  # fmt: skip
        assert part in text
    nats = dataclasses.replace(report().likelihood, metric="negative_log_likelihood", levels=None, dequantization=None, probes=0)
    text = dataclasses.replace(report(), likelihood=nats).to_markdown()
    assert "2.5 nats per sample" in text
    assert "That is 1.25 for each of 2 dimensions." in text
    assert "with the exact trace" in text
    assert "bound" not in text


def test_tables_line_up_in_a_text_viewer():
    lines = markdown_table(("metric", "x"), [("kid", "1.25"), ("frechet", "3")]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| ------- | ---: |"


def test_a_ratio_to_the_floor_is_shown_of_biased_measures_only():
    kid = Measurement("kid", 0.2, -0.1, 0.5, 0.01, 0.0, "pixels", 40)
    assert metric_cells(kid)[5] == "-"
    assert metric_cells(dataclasses.replace(kid, metric="w2"))[5] == "20.00"
    assert metric_cells(dataclasses.replace(kid, metric="class_p", low=0.2, floor=None, ideal=None, high=0.2))[3:] == ("-",) * 4


def test_losses_by_level_of_an_exact_belief_are_its_posterior_variance():
    # x0 ~ N(0, s^2): E|x0_hat - x0|^2 = s^2 sigma^2/(alpha^2 s^2 + sigma^2) = s^2/(1 + s^2 exp(2 lam)), averaged over a bin
    s, n = 0.5, 256
    denoiser = GaussianDenoiser(torch.zeros(64), torch.full((64,), s), VPSDE())
    x = s * torch.randn(2, n, 64, generator=torch.Generator().manual_seed(1))  # 0 would repeat the noise
    found = level_losses(denoiser, DenoisingScoreMatching(weighting=ConstantWeighting()), *x, bins=4)
    width = found.log_snr[1] - found.log_snr[0]
    for centre, *pairs in zip(found.log_snr, found.train, found.train_error, found.held_out, found.held_out_error, strict=True):
        lam = centre + width * ((torch.arange(n, dtype=torch.float64) + 1 / 2) / n - 1 / 2)
        expected = (s**2 / (1 + s**2 * (2 * lam).exp())).mean().item()
        train, train_error, held_out, held_out_error = pairs
        assert abs(train - expected) < 4 * train_error
        assert abs(held_out - expected) < 4 * held_out_error


def gaussian(d=2, std=0.5):
    return GaussianDenoiser(torch.zeros(d), std, VPSDE())


def points(n, d=2, std=0.5):
    return std * torch.randn(n, d, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_the_likelihood_of_gaussian_data_is_its_entropy():
    found = held_out_likelihood(gaussian(), points(2000), n=400)
    entropy = math.log(2 * math.pi * math.e * 0.25)  # of two dimensions, d/2 log(2 pi e s^2)
    assert (found.metric, found.n, found.probes, found.levels) == ("negative_log_likelihood", 400, 0, None)
    assert found.low < entropy < found.high
    assert found.high - found.low == pytest.approx(2 * 1.966 / 20, rel=0.15)  # |z|^2/2 of two dimensions has standard deviation 1
    line = found.measurement()
    assert (line.metric, line.value, line.n, line.floor) == (found.metric, found.value, 400, None)


@pytest.mark.parametrize("dequantized", [True, False])
def test_bits_are_found_by_the_noise_that_suits_the_data(dequantized):
    k = ((points(200).clamp(-1, 1) + 1) * 8).round()
    u = torch.rand(k.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = 2 * (k + u * 0.99) / 17 - 1 if dequantized else k / 8 - 1
    assert quantization_of(x, 17).dequantized is dequantized
    found = held_out_likelihood(gaussian(), x, levels=17)
    assert (found.metric, found.n, found.levels) == ("bits_per_dim", 200, 17)
    assert found.dequantization == ("uniform" if dequantized else "truncated_normal")
    assert 2 < found.low < found.value < found.high < math.log2(17) + 1


def test_many_dimensions_are_probed_and_the_error_is_told():
    std = torch.linspace(0.2, 1.0, 40)
    x = std * torch.randn(30, 40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    denoiser = GaussianDenoiser(torch.zeros(40), std, VPSDE())
    probed, exact = (held_out_likelihood(denoiser, x, probes=probes) for probes in (None, 0))
    assert (probed.probes, exact.probes, exact.probe_error) == (1, 0, 0.0)
    assert abs(probed.value - exact.value) < 1e-2 + 4 * probed.probe_error


def test_a_likelihood_of_one_sample_is_refused():
    with pytest.raises(ValueError, match="at least 2 samples"):
        held_out_likelihood(gaussian(), points(1))
