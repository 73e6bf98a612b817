"""The intervals hold what they say, by laws whose numbers are known."""

import json
import math

import pytest
import torch

from sde_diffusion.evaluation.frechet import frechet_distance, frechet_estimate
from sde_diffusion.evaluation.kid import kid
from sde_diffusion.evaluation.measurement import Estimate, Measurement, bootstrap, floor, halves
from sde_diffusion.evaluation.precision_recall import precision_recall


def normals(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


def coverage(estimates, truth):
    return sum(low <= truth <= high for low, high in (e.interval() for e in estimates)) / len(estimates)


def test_the_error_of_a_mean_is_its_standard_error():
    x = normals()(50, 1)
    (estimate,) = halves(lambda a: a.mean(), x, resamples=2000)
    assert estimate.value == pytest.approx(x.mean().item(), abs=1e-15)
    assert estimate.error == pytest.approx((x.std() / 50**0.5).item(), rel=3 / math.sqrt(2 * 2000))  # three standard deviations


def test_the_error_of_a_difference_adds_the_variances_of_both_clouds():
    draw = normals()
    x, y = draw(60, 1), 2 * draw(40, 1)
    (estimate,) = halves(lambda a, b: a.mean() - b.mean(), x, y, resamples=2000)
    assert estimate.error == pytest.approx((x.var() / 60 + y.var() / 40).sqrt().item(), rel=3 / math.sqrt(2 * 2000))


def test_each_number_of_a_statistic_has_its_estimate():
    x = normals()(30, 2)
    first, second = halves(lambda a: a.mean(0), x)
    assert (first.value, second.value) == tuple(x.mean(0).tolist())
    assert first.error != second.error


def test_intervals_of_a_mean_cover_it_95_times_in_100():
    draw = normals()
    many = [draw(40, 1) for _ in range(400)]
    by_halves = coverage([halves(torch.mean, x, resamples=40)[0] for x in many], 0)
    by_bootstrap = sum(low <= 0 <= high for low, high in (bootstrap(torch.mean, x, resamples=100)[0] for x in many[:200])) / 200
    assert by_halves == pytest.approx(0.95, abs=0.033)  # three standard deviations of a share of 400
    assert 0.88 < by_bootstrap < 0.97  # percentiles of 100 resamples of 40 points are known to be a little short


def test_intervals_of_the_frechet_distance_cover_its_expectation_and_a_bootstrap_does_not():
    draw = normals()
    d, n, m, shift = 8, 200, 150, 0.3
    expectation = sum(frechet_distance(shift + draw(n, d), draw(m, d)) for _ in range(400)) / 400
    clouds = [(shift + draw(n, d), draw(m, d)) for _ in range(150)]
    assert coverage([frechet_estimate(*pair) for pair in clouds], expectation) >= 0.9
    naive = [bootstrap(frechet_distance, *pair, resamples=40)[0] for pair in clouds[:40]]
    assert sum(low <= expectation <= high for low, high in naive) / len(naive) < 0.7


def test_the_error_of_the_frechet_distance_to_first_order_is_that_of_random_halves():
    draw = normals()
    a, b = 0.5 + draw(400, 3) * torch.tensor([1.0, 2.0, 0.5]).double(), draw(400, 3)
    a, b = (torch.cat((x, torch.ones(400, 1)), dim=1) for x in (a, b))  # and a coordinate that is constant
    (by_halves,) = halves(frechet_distance, a, b, resamples=400)
    assert frechet_estimate(a, b).error == pytest.approx(by_halves.error, rel=3 / math.sqrt(2 * 400))


def test_intervals_of_the_kernel_distance_cover_the_truth():
    draw = normals()
    # (x.y + 1)^3 in one dimension has the features 1, sqrt(3) x, sqrt(3) x^2, x^3: the kernel distance is that of their means, which are
    # the moments m, m^2 + s^2, m^3 + 3 m s^2 of N(m, s^2); at s = 1 the third is so heavy-tailed that 100 points cover it 85 times in 100
    m, s = 0.3, 0.5
    truth = 3 * m**2 + 3 * m**4 + (m**3 + 3 * m * s**2) ** 2
    assert coverage([kid(m + s * draw(400, 1), s * draw(300, 1)) for _ in range(200)], truth) > 0.9
    null = [kid(s * draw(100, 1), s * draw(80, 1)) for _ in range(300)]
    assert coverage(null, 0) > 0.9
    values = torch.tensor([e.value for e in null])
    assert values.mean().abs() < 3 * values.std() / 300**0.5  # unbiased


def test_estimates_are_cut_off_at_the_ends_of_the_range():
    assert Estimate(0.1, 1.0).interval(least=0) == (0, pytest.approx(0.1 + 1.959964, abs=1e-6))
    assert Estimate(0.9, 1.0, 9).interval(most=1) == (pytest.approx(0.9 - 2.262157, abs=1e-6), 1)  # t table, 9 degrees of freedom


def test_the_floor_is_the_mean_over_training_subsets():
    train, held_out = torch.arange(10.0)[:, None], torch.zeros(3, 1)
    assert floor(lambda a, b: len(a) + len(b), train, held_out, 4).tolist() == [7]
    assert floor(lambda a, b: len(a), train, held_out, 40).tolist() == [10]
    assert floor(lambda a, b: a.mean(), train, held_out, 10).item() == pytest.approx(4.5)


def test_measurements_survive_json():
    measured = Measurement("frechet", 1.5, 1.0, 2.0, 0.5, 0.0, "pixels", 10)
    assert Measurement.from_json(json.loads(json.dumps(measured.to_json()))) == measured
    undefined = Measurement("class_p", math.nan, math.nan, math.nan, None, None, "pixels", 10)
    read = Measurement.from_json(json.loads(json.dumps(undefined.to_json(), allow_nan=False)))
    assert math.isnan(read.value)
    assert read.floor is None
    with pytest.raises(ValueError, match="fields"):
        Measurement.from_json({"metric": "frechet"})


def test_intervals_of_neighbour_metrics_are_wide_enough_and_not_twice_too_wide():
    draw = normals()
    n, m = 100, 80
    spread = torch.tensor([precision_recall(0.3 + draw(n, 4), draw(m, 4)) for _ in range(300)]).std(0)
    errors = [[e.error for e in halves(precision_recall, 0.3 + draw(n, 4), draw(m, 4), resamples=20)] for _ in range(25)]
    ratios = torch.tensor(errors).square().mean(0).sqrt() / spread
    assert ratios.min() > 0.9
    assert ratios.max() < 1.6


def test_what_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match=r"needs 2 halves, and 2 samples to halve, got 1 of \[5\]"):
        halves(torch.mean, torch.zeros(5, 1), resamples=1)
