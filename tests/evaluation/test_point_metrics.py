"""Distances and tests of points, against the closed forms of Gaussians and each other."""

import math

import pytest
import torch
from scipy.stats import kstest, norm

from sde_diffusion.evaluation.kernel_distances import energy_distance, median_distance, mmd
from sde_diffusion.evaluation.modes import mode_counts
from sde_diffusion.evaluation.transport import quantile_distance, sliced_wasserstein, wasserstein
from sde_diffusion.evaluation.two_sample_classifier import c2st


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def within_three_errors(estimate, truth):
    return abs(estimate.value - truth) < 3 * estimate.error


def mean_absolute(m, s):
    """E|z| of z ~ N(m, s^2): the folded normal law."""
    return s * math.sqrt(2 / math.pi) * math.exp(-((m / s) ** 2) / 2) + m * (1 - 2 * norm.cdf(-m / s))


@pytest.mark.parametrize(("m", "s"), [(0.5, 1.0), (0.0, 2.0), (0.0, 1.0)])
def test_the_energy_distance_of_gaussians_is_the_closed_form(m, s):
    truth = 2 * mean_absolute(m, math.hypot(1, s)) - mean_absolute(0, math.sqrt(2)) - mean_absolute(0, s * math.sqrt(2))
    estimate = energy_distance(m + s * normal(2000, 1), normal(1500, 1, seed=1))
    assert within_three_errors(estimate, truth)
    assert estimate.error < 0.03


def kernel_mean(m, variance, h):
    """E exp(-z^2/(2 h^2)) of z ~ N(m, variance)."""
    return h / math.sqrt(h**2 + variance) * math.exp(-(m**2) / (2 * (h**2 + variance)))


@pytest.mark.parametrize(("m", "s"), [(0.5, 1.0), (0.0, 2.0), (0.0, 1.0)])
def test_the_mmd_of_gaussians_is_the_closed_form(m, s):
    terms = [kernel_mean(0, 2 * s**2, h) + kernel_mean(0, 2, h) - 2 * kernel_mean(m, 1 + s**2, h) for h in (0.35, 0.7, 1.4)]
    estimate = mmd(m + s * normal(2000, 1), normal(1500, 1, seed=1), bandwidth=0.7)
    assert within_three_errors(estimate, sum(terms) / 3)
    assert estimate.error < 0.01


def test_the_median_heuristic_is_the_median_distance_of_the_reference():
    # |x - y| of N(0, 1) is |N(0, 2)|, whose median is sqrt(2) times the third quartile of N(0, 1)
    assert median_distance(normal(1000, 1)) == pytest.approx(math.sqrt(2) * norm.ppf(0.75), rel=0.05)
    with pytest.raises(ValueError, match="median distance"):
        median_distance(torch.zeros(10, 2))


@pytest.mark.parametrize(("n", "m"), [(7, 7), (6, 4), (5, 13)])
def test_quantiles_and_the_linear_program_agree_on_the_line(n, m):
    ot = pytest.importorskip("ot")
    x, y = normal(n, 1), 1 + 2 * normal(m, 1, seed=1)
    theirs = ot.emd2_1d(x[:, 0].numpy(), y[:, 0].numpy())
    assert quantile_distance(x, y).item() == pytest.approx(theirs, rel=1e-10)
    padded = [torch.cat((z, torch.zeros(len(z), 1)), dim=1) for z in (x, y)]  # in the plane: no short cut
    assert wasserstein(*padded) ** 2 == pytest.approx(theirs, rel=1e-6)


def test_w2_of_a_shifted_cloud_is_the_length_of_the_shift():
    pytest.importorskip("ot")
    x = normal(60, 3)
    shift = torch.tensor([0.3, -0.4, 1.2]).double()
    assert wasserstein(x, x[torch.randperm(60, generator=torch.Generator().manual_seed(0))] + shift) == pytest.approx(1.3, rel=1e-6)
    with pytest.raises(ValueError, match="limit of 50"):
        wasserstein(x, x, limit=50)


def test_sliced_wasserstein_of_a_shifted_cloud_is_the_mean_over_directions():
    x, shift = normal(50, 4), torch.tensor([1.0, 2.0, 0.0, 2.0]).double()
    # E (theta.m)^2 = |m|^2/d = 9/4, and so is the mean over the vectors of any orthonormal basis
    assert sliced_wasserstein(x, x + shift, projections=20) ** 2 == pytest.approx(9 / 4, rel=1e-12)
    # the standard deviation of (theta.m)^2 is |m|^2/d sqrt(2 (d - 1)/(d + 2)) = 9/4 for d = 4; three of a basis leave out the fourth
    squares = torch.tensor([sliced_wasserstein(x, x + shift, projections=3, seed=s) ** 2 for s in range(400)])
    assert squares.mean().item() == pytest.approx(9 / 4, abs=3 * 9 / 4 / 3 / math.sqrt(400))
    assert squares.std().item() == pytest.approx(9 / 4 / 3, rel=0.2)
    assert sliced_wasserstein(x[:, :1], x[:, :1] + 3) == pytest.approx(3)  # one dimension, one direction


def test_sliced_wasserstein_of_gaussians_approaches_the_shift():
    a, b = 1 + normal(10_000, 2), normal(10_000, 2, seed=1)
    assert sliced_wasserstein(a, b, projections=32) == pytest.approx(1, abs=3 * math.sqrt(2 / 10_000))  # |m|^2/d = 2/2


def test_c2st_sees_a_shift_and_not_a_copy_of_the_law():
    a, b = normal(200, 2), normal(260, 2, seed=1)
    equal, shifted = c2st(a, b), c2st(a + 1.5, b)
    assert 0.42 < equal.accuracy < 0.58
    assert equal.p_value > 0.05
    # the best rule for N(0, I) and N(m, I) is right with probability Phi(|m|/2)
    assert shifted.accuracy == pytest.approx(norm.cdf(1.5 * math.sqrt(2) / 2), abs=0.06)
    assert shifted.p_value == 1 / 201


def test_c2st_takes_any_classifier_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    a, b = normal(100, 2), normal(100, 2, seed=1)
    result = c2st(a + 2, b, classifier=LogisticRegression(), permutations=19)
    assert result.accuracy > 0.85
    assert result.p_value == 1 / 20
    assert c2st(2 * a, b, classifier=LogisticRegression(), permutations=0).accuracy < 0.65  # a line cannot see a scale
    with pytest.raises(ValueError, match="at least 5 points"):
        c2st(a[:4], b)


@pytest.mark.slow
def test_p_values_of_c2st_are_uniform_under_the_null():
    p = [c2st(normal(40, 2, seed=2 * s), normal(40, 2, seed=2 * s + 1), permutations=99, seed=s).p_value for s in range(400)]
    # accuracies are multiples of 1/80, ties count against: p is at least uniform; spread out over the tie it is
    assert sum(x <= 0.05 for x in p) / 400 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    assert kstest(p, "uniform", alternative="greater").pvalue > 0.001


def test_modes_are_counted_at_the_nearest_centre_within_the_radius():
    centers = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    samples = torch.tensor([[0.1, 0.0], [0.0, 0.9], [10.0, 0.5], [5.0, 0.0]])
    found = mode_counts(samples, centers, 1.0)
    assert found.counts == (2, 1)
    assert found.outside == 1
    assert found.variation == pytest.approx((0 + 0.25 + 0.25) / 2)
    assert found.p_value == pytest.approx(0.5637, abs=1e-4)  # chi-square 1/3, 1 degree of freedom


def test_a_dropped_mode_is_seen_and_weights_are_respected():
    centers = 5 * torch.eye(4)
    samples = centers[torch.arange(90) % 3].double()
    assert mode_counts(samples, centers, 1).p_value < 1e-5
    assert mode_counts(samples, centers, 1).variation == pytest.approx(1 / 4)
    assert mode_counts(samples, centers, 1, weights=torch.tensor([1, 1, 1, 1e-6])).p_value > 0.9
    with pytest.raises(ValueError, match="must be positive"):
        mode_counts(samples, centers, 0)
