import math

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.evaluation.out_of_distribution import auroc, pca_error, reconstruction_error, round_trip_error


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("digits", [None, 0])
def test_the_area_is_that_of_scikit_learn_with_and_without_ties(digits):
    from sklearn.metrics import roc_auc_score

    known, strange = normal(80), normal(50, seed=1) + 0.7
    if digits is not None:
        known, strange = known.round(), strange.round()  # a few values, each many times
    expected = roc_auc_score([0] * 80 + [1] * 50, torch.cat([known, strange]))
    assert auroc(known, strange).area == pytest.approx(expected, abs=1e-12)


def test_the_standard_error_is_that_of_repetitions():
    known, strange = normal(200, 60), normal(200, 40, seed=1) + 1
    found = [auroc(a, b) for a, b in zip(known, strange, strict=True)]
    spread = torch.tensor([f.area for f in found]).std().item()
    assert sum(f.error for f in found) / 200 == pytest.approx(spread, rel=0.2)  # a standard deviation of 200 is known to 5 %
    truth = 0.5 * math.erfc(-1 / 2)  # P(z' + 1 > z) = Phi(1/sqrt 2) = erfc(-1/2)/2
    assert sum(f.low <= truth <= f.high for f in found) / 200 == pytest.approx(0.95, abs=0.05)


def test_perfect_wrong_and_ignorant_scores_have_areas_one_zero_and_half():
    low, high = torch.zeros(3), torch.ones(4)
    assert auroc(low, high).area == 1.0
    assert auroc(high, low).area == 0.0
    assert auroc(low, torch.zeros(5)).area == 0.5
    assert (auroc(low, high).low, auroc(low, high).high) == (1.0, 1.0)


SDES = [sd.VPSDE(), sd.VESDE(), sd.RectifiedFlow()]
every_process = pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)


@every_process
def test_the_reconstruction_error_of_gaussian_data_is_that_of_the_formula(sde):
    # x0_hat = g x_t, g = alpha s^2/(alpha^2 s^2 + sigma^2): E|g (alpha x + sigma eps) - x|^2/d = (g alpha - 1)^2 |x|^2/d + g^2 sigma^2
    s, t = 0.5, 0.4
    denoiser, x = sd.GaussianDenoiser(torch.zeros(64), s, sde), normal(4, 64)
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    g = alpha * s**2 / (alpha**2 * s**2 + sigma**2)
    expected = (g * alpha - 1) ** 2 * x.square().mean(1) + (g * sigma) ** 2
    found = reconstruction_error(denoiser, x, t=t, draws=100, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(found, expected, rtol=0.08, atol=0)  # 6400 squares: 1.8 %


def test_a_process_with_little_noise_turns_at_its_end():
    denoiser, x = sd.GaussianDenoiser(torch.zeros(4), 0.5, sd.VESDE(sigma_max=0.5)), normal(3, 4)
    assert torch.equal(round_trip_error(denoiser, x), round_trip_error(denoiser, x, t=1.0))
    assert torch.equal(reconstruction_error(denoiser, x, seeds=range(3)), reconstruction_error(denoiser, x, t=1.0, seeds=range(3)))


@every_process
def test_the_scores_are_higher_for_strangers(sde):
    means = normal(4, 16)
    denoiser = sd.GaussianMixtureDenoiser(means, 0.2, None, sde)
    known = denoiser.sample_data(64, generator=torch.Generator().manual_seed(1))
    strange = sd.GaussianMixtureDenoiser(-means, 0.2, None, sde).sample_data(64, generator=torch.Generator().manual_seed(2))
    errors = [reconstruction_error(denoiser, x, seeds=range(64)) for x in (known, strange)]
    assert auroc(*errors).area > 0.99
    assert auroc(*(round_trip_error(denoiser, x) for x in (known, strange))).area > 0.99
    assert auroc(*(pca_error(known, x, components=3) for x in (known, strange))).area > 0.6


@every_process
def test_the_round_trip_misses_less_with_more_steps(sde):
    denoiser = sd.GaussianMixtureDenoiser(normal(4, 16), 0.2, None, sde)
    x = denoiser.sample_data(16, generator=torch.Generator().manual_seed(1))
    few, many = (round_trip_error(denoiser, x, steps=n).mean().item() for n in (10, 160))
    assert many < few / 50  # first order: an error of 1/16, a square of 1/256
    assert round_trip_error(denoiser, x, steps=10, t=sde.t_max).mean() > 10 * few  # all the way up, where modes are lost


def test_pca_keeps_what_lies_in_its_plane():
    known = normal(50, 2) @ normal(2, 6, seed=1) + 3
    torch.testing.assert_close(pca_error(known, known[:5], components=2), torch.zeros(5, dtype=torch.float64), atol=1e-20, rtol=0)
    off = normal(1, 6, seed=2)
    assert pca_error(known, known[:1] + off, components=2).item() < off.square().mean().item()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d, x: auroc(x[:1, 0], x[:, 0]), "at least 2 scores of either kind, got 1 known and 4"),
        (lambda d, x: auroc(x[:, 0] * torch.nan, x[:, 0]), "NaN"),
        (lambda d, x: reconstruction_error(d, x, t=0.0), "t must lie in"),
        (lambda d, x: reconstruction_error(d, x, draws=0), "draws must be"),
        (lambda d, x: round_trip_error(d, x, t=0.0), "the way leads there and back"),
        (lambda d, x: round_trip_error(d, x, steps=0), "steps must be"),
        (lambda d, x: pca_error(x, x, components=3), r"components must lie in 1\.\.2, got 3"),
        (lambda d, x: pca_error(x, x, components=1.5), "components must be a whole number"),
        (lambda d, x: pca_error(x, normal(4, 3), components=1), r"of one shape, got \(4, 2\) and \(4, 3\)"),
        (lambda d, x: reconstruction_error(d, x.long()), "x must be floating point, got torch.int64"),
        (lambda d, x: round_trip_error(d, x.long()), "x must be floating point, got torch.int64"),
    ],
)
def test_mistakes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(sd.GaussianDenoiser(torch.zeros(2), 1.0, sd.VPSDE()), normal(4, 2))
