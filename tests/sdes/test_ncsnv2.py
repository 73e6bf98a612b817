"""Row C1: the noise levels of Song & Ermon 2020, from their own equation."""

import math
from statistics import NormalDist

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.sdes.chains import ncsnv2_sigma_max, ncsnv2_sigmas


def overlap(d: int, gamma: float) -> float:
    a, phi = math.sqrt(2 * d) * (gamma - 1), NormalDist().cdf
    return phi(a + 3 * gamma) - phi(a - 3 * gamma)


@pytest.mark.parametrize("d", [5, 64, 3072, 10**6])
def test_the_ratio_solves_the_papers_equation(d):
    ratio = 1 / (1 - 3 / math.sqrt(2 * d))
    assert overlap(d, ratio) == pytest.approx(0.5, abs=2e-9)
    levels = ncsnv2_sigmas(d, 1.0, 1.001 * ratio**7)  # the eighth step is just needed
    assert len(levels) == 9
    assert overlap(d, levels[1] / levels[0]) > 0.5


def test_the_number_of_levels_is_the_papers():
    # row C1: 219 to 227 for CIFAR-10, whose 3072 dimensions the paper gives 232; 29 and a ratio of 1.36 for 8x8 digits
    assert 219 <= len(ncsnv2_sigmas(3072, 0.01, 50.0)) <= 227
    digits = ncsnv2_sigmas(64)
    assert len(digits) == 29
    assert digits[1] / digits[0] == pytest.approx(1.36, abs=0.005)
    assert (digits[0], digits[-1]) == pytest.approx((0.01, 50.0))


def test_they_are_what_the_equation_stands_for():
    # half of N(0, I) is as long as N(0, gamma^2 I) is within three of its standard deviations gamma/sqrt(2)
    d = 3072
    gamma = 1 / (1 - 3 / math.sqrt(2 * d))
    length = torch.randn(4000, d, generator=torch.Generator().manual_seed(0)).norm(dim=1)
    inside = ((length - gamma * math.sqrt(d)).abs() < 3 * gamma / math.sqrt(2)).double().mean().item()
    assert inside == pytest.approx(0.5, abs=0.03)  # 4 standard errors


def test_a_ladder_of_them_prints_as_an_expression():
    ladder = sd.NCSNLadder(ncsnv2_sigmas(64))
    assert repr(ladder).startswith("NCSNLadder(geometric_sigmas(29")
    assert sd.build(repr(ladder)) == ladder


def test_the_largest_level_is_the_largest_distance():
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(2100, 1, 3, generator=generator)
    data[3], data[2050] = 40.0, -10.0  # in two of the blocks that are compared at a time
    assert ncsnv2_sigma_max(data) == pytest.approx(50 * math.sqrt(3))


def test_too_few_dimensions_or_data_are_refused():
    with pytest.raises(ValueError, match="d=4"):
        ncsnv2_sigmas(4)
    with pytest.raises(ValueError, match="swap them"):
        ncsnv2_sigmas(64, 1.0, 0.1)
    with pytest.raises(ValueError, match="n >= 2"):
        ncsnv2_sigma_max(torch.zeros(1, 3))
