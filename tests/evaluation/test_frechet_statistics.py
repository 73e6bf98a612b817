import pytest
import torch

from sde_diffusion.evaluation.features import ModuleFeatures, Pixels
from sde_diffusion.evaluation.frechet import Statistics, frechet_distance, frechet_infinity, reference_statistics


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_statistics_of_parts_are_those_of_the_whole_even_far_from_zero():
    x = 1e6 + normal(103, 4)
    parts = Statistics.of_parts(x.split((1, 40, 2, 60)))
    assert parts.n == 103
    torch.testing.assert_close(parts.mean, x.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(parts.covariance, torch.cov(x.T), rtol=0, atol=1e-8)


def test_merging_is_commutative():
    a, b = Statistics.of(normal(30, 3)), Statistics.of(2 + normal(50, 3, seed=1))
    for one, other in zip((a.merge(b).mean, a.merge(b).covariance), (b.merge(a).mean, b.merge(a).covariance), strict=True):
        torch.testing.assert_close(one, other)


def test_agrees_with_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    a, b = normal(300, 12) @ normal(12, 12, seed=3), 0.3 + normal(200, 12, seed=1)
    moments = [m for x in (a, b) for m in (x.mean(0), torch.cov(x.T))]
    assert frechet_distance(a, b) == pytest.approx(fid._compute_fid(*moments).item(), rel=1e-4)


class Times(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.factor * x


def test_reference_statistics_are_computed_once_for_each_data_set_and_network(tmp_path):
    x = normal(20, 3).float()
    module = Times(2.0)
    features = ModuleFeatures(module, name="times")
    first = reference_statistics(x, features, cache=tmp_path)
    again = reference_statistics(x, features, cache=tmp_path)
    assert module.calls == 1
    assert torch.equal(first.covariance, again.covariance)
    assert again.n == 20
    torch.testing.assert_close(first.covariance, 4 * reference_statistics(x, Pixels()).covariance)
    module.factor.data += 1  # other weights under the same name
    assert reference_statistics(x, features, cache=tmp_path).mean.allclose(3 * x.double().mean(0))
    assert reference_statistics(x + 1, features, cache=tmp_path).mean.allclose(3 + 3 * x.double().mean(0))


def test_extrapolation_removes_most_of_the_bias():
    pairs = [(normal(150, 8, seed=s), normal(20_000, 8, seed=50 + s % 3)) for s in range(12)]  # at distance 0
    plain = sum(frechet_distance(*pair) for pair in pairs) / 12
    extrapolated = sum(frechet_infinity(*pair, least=0.3) for pair in pairs) / 12
    assert plain > 0.1
    assert abs(extrapolated) < plain / 2


def test_extrapolation_refuses_a_share_outside_0_1_and_tiny_subsets():
    with pytest.raises(ValueError, match=r"share in \(0, 1\)"):
        frechet_infinity(normal(10, 2), normal(10, 2), least=1.0)
    with pytest.raises(ValueError, match="at least 2 samples"):
        frechet_infinity(normal(3, 2), normal(10, 2), least=0.1)


def test_no_parts_are_refused():
    with pytest.raises(ValueError, match="no samples"):
        Statistics.of_parts([])
