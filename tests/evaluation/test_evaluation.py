from typing import NamedTuple

import pytest
import torch

from sde_diffusion import evaluation
from sde_diffusion.data import load


class Parts(NamedTuple):
    train: torch.Tensor
    held_out: torch.Tensor
    train_labels: torch.Tensor
    held_out_labels: torch.Tensor


def digits():
    data = load("digits")
    train, held_out = data.train.take(), data.held_out.take()
    return Parts(train.x, held_out.x, train.labels, held_out.labels)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_frechet_of_n_0_1_and_n_1_quarter_is_1_25():
    # one dimension: (m1 - m2)^2 + (s1 - s2)^2 = 1 + (1 - 1/2)^2
    one = torch.ones(1, 1).double()
    assert evaluation.frechet_between(0 * one[0], one, one[0], one / 4) == pytest.approx(1.25, abs=1e-12)


def test_frechet_of_clouds_with_exactly_those_moments_is_1_25():
    x = normal(1000, 1)
    x = (x - x.mean()) / x.std()
    assert evaluation.frechet_distance(x, 1 + x / 2) == pytest.approx(1.25, abs=1e-12)


def test_frechet_of_commuting_gaussians_is_the_sum_over_coordinates():
    a, b = torch.tensor([1.0, 4.0, 0.0]).double(), torch.tensor([9.0, 1.0, 0.0]).double()
    expected = (a.sqrt() - b.sqrt()).square().sum().item()  # 4 + 1
    rotation = torch.linalg.qr(normal(3, 3))[0]
    a, b = ((rotation * d) @ rotation.T for d in (a, b))
    assert evaluation.frechet_between(torch.zeros(3).double(), a, torch.zeros(3).double(), b) == pytest.approx(expected, abs=1e-7)


def test_frechet_of_a_cloud_with_itself_is_zero_even_when_a_coordinate_is_constant():
    x = torch.cat((normal(50, 3), torch.ones(50, 1)), dim=1)
    assert evaluation.frechet_distance(x, x) < 1e-10


def test_real_digits_have_a_ratio_near_one_and_noise_a_large_one():
    data = digits()
    real = evaluation.quality(data.train[:360], data.train, data.held_out, labels=data.train_labels)
    noise = evaluation.quality(normal(360, 1, 8, 8).clamp(-1, 1), data.train, data.held_out, labels=data.train_labels)
    assert 0.8 < real.ratio < 1.25
    assert 0.35 < real.accuracy < 0.6
    assert real.p_value > 0.01
    assert noise.ratio > 10
    assert noise.accuracy > 0.9
    assert noise.p_value < 1e-6


def test_one_nn_accuracy_is_half_for_one_law_one_for_distant_laws_and_zero_for_copies():
    a, b = normal(500, 2, seed=1), normal(700, 2, seed=2)
    assert evaluation.one_nn_accuracy(a, b) == pytest.approx(0.5, abs=0.06)  # two standard deviations: 1 / sqrt(1000) each
    assert evaluation.one_nn_accuracy(a, b + 100) == 1
    assert evaluation.one_nn_accuracy(a, a + 1e-9) == 0


def test_the_fixed_classifier_knows_the_held_out_digits():
    data = digits()
    right = 0
    for digit in range(10):
        counts, _ = evaluation.class_histogram(data.held_out[data.held_out_labels == digit], data.train, data.train_labels)
        right += counts[digit]
    assert right / len(data.held_out) > 0.97


def test_the_floor_shrinks_with_the_sample_size():
    data = digits()
    assert evaluation.real_floor(data.train, data.held_out, 100) > 1.5 * evaluation.real_floor(data.train, data.held_out, 1000)


def test_samples_of_another_shape_or_not_finite_are_refused():
    data = digits()
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        evaluation.quality(normal(10, 2), data.train, data.held_out)
    with pytest.raises(ValueError, match="not finite"):
        evaluation.quality(torch.full((10, 1, 8, 8), torch.nan), data.train, data.held_out)
    with pytest.raises(ValueError, match="at least 2"):
        evaluation.frechet_distance(normal(1, 2), normal(5, 2))


def test_a_table_aligns_its_columns():
    text = evaluation.table(("solver", "NFE"), [("DDIM()", "50"), ("Ancestral()", "1000")])
    assert text.splitlines()[0] == "solver        NFE"
    assert text.splitlines()[2] == "DDIM()         50"
