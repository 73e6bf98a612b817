import dataclasses
import json

import pytest
import torch

from sde_diffusion import VPSDE, GaussianDenoiser
from sde_diffusion.evaluation.classes import ClassCounts
from sde_diffusion.evaluation.levels import level_losses
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
        pictures=(("Samples", "samples.png"),),
    )


def test_a_report_survives_json():
    written = json.loads(json.dumps(report().to_json()))
    assert Report.from_json(written) == report()
    bare = dataclasses.replace(report(), losses=None, curve=(), classes=None, pictures=())
    assert Report.from_json(json.loads(json.dumps(bare.to_json()))) == bare


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
