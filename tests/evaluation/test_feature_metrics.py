"""Kernel distance, inception score, precision and recall: against other libraries, transcriptions and closed cases."""

import importlib
import math

import pytest
import torch

from sde_diffusion.evaluation import neighbours as module
from sde_diffusion.evaluation import pairs
from sde_diffusion.evaluation.inception_score import inception_score
from sde_diffusion.evaluation.kid import kid, kid_subsets, polynomial_kernel
from sde_diffusion.evaluation.neighbours import neighbours
from sde_diffusion.evaluation.precision_recall import precision_recall


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kid_agrees_with_torchmetrics():
    theirs = pytest.importorskip("torchmetrics.image.kid").poly_mmd
    a, b = normal(60, 5), 0.2 + normal(60, 5, seed=1)
    assert kid(a, b).value == pytest.approx(theirs(b, a).item(), rel=1e-10)
    assert kid_subsets(a, b, subsets=3, size=60).value == pytest.approx(kid(a, b).value, rel=1e-10)  # each subset is the whole


def test_the_error_of_kid_is_the_leave_one_out_jackknife():
    a, b = normal(13, 4), 0.2 + normal(9, 4, seed=1)

    def direct(x, y):
        K, L, M = polynomial_kernel(x, x), polynomial_kernel(y, y), polynomial_kernel(x, y)
        n, m = len(x), len(y)
        return (K.sum() - K.trace()) / (n * (n - 1)) + (L.sum() - L.trace()) / (m * (m - 1)) - 2 * M.mean()

    without_a = torch.stack([direct(a[torch.arange(13) != i], b) for i in range(13)])
    without_b = torch.stack([direct(a, b[torch.arange(9) != i]) for i in range(9)])
    expected = 12 * without_a.var(correction=0) + 8 * without_b.var(correction=0)  # (n - 1)/n times the sum of squares
    assert kid(a, b).value == pytest.approx(direct(a, b).item(), rel=1e-10)
    assert kid(a, b).error == pytest.approx(expected.sqrt().item(), rel=1e-10)


def test_chunks_change_nothing(monkeypatch):
    a, b = normal(50, 4), 0.2 + normal(37, 4, seed=1)
    whole = kid(a, b), precision_recall(a, b), neighbours(a, 4)
    monkeypatch.setattr(pairs, "CHUNK", 8)
    for name in ("neighbours", "precision_recall"):
        monkeypatch.setattr(importlib.import_module(f"sde_diffusion.evaluation.{name}"), "CHUNK", 8)
    assert module.CHUNK == 8
    parts = kid(a, b), precision_recall(a, b), neighbours(a, 4)
    assert parts[0].value == pytest.approx(whole[0].value, rel=1e-12)
    assert parts[0].error == pytest.approx(whole[0].error, rel=1e-12)
    assert parts[1] == whole[1]
    assert torch.equal(parts[2][1], whole[2][1])


def test_subsets_larger_than_a_cloud_are_refused():
    with pytest.raises(ValueError, match="subsets of 1000"):
        kid_subsets(normal(10, 2), normal(10, 2))
    with pytest.raises(ValueError, match="at least 3"):
        kid(normal(2, 2), normal(10, 2))


def test_the_inception_score_is_one_for_equal_rows_and_the_number_of_classes_for_sure_and_balanced_ones():
    assert inception_score(normal(1, 7).expand(20, 7)) == pytest.approx(1, abs=1e-12)
    assert inception_score(1000 * torch.eye(5).double().repeat(4, 1)) == pytest.approx(5, abs=1e-12)
    # p = (q, 1 - q) and its mirror image: the marginal is 1/2 each, KL = log 2 + q log q + (1 - q) log(1 - q)
    q = 0.9
    logits = torch.tensor([[q, 1 - q], [1 - q, q]], dtype=torch.float64).log()
    assert inception_score(logits) == pytest.approx(2 * q**q * (1 - q) ** (1 - q), rel=1e-12)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore`", "ignore:std")
def test_the_inception_score_agrees_with_torchmetrics():
    metrics = pytest.importorskip("torchmetrics.image.inception")
    logits = 2 * normal(40, 6).float()
    with torch.random.fork_rng(devices=[]):  # it shuffles before splitting: one split
        theirs = metrics.InceptionScore(feature=torch.nn.Identity(), splits=1)
        theirs.update(logits)
        assert inception_score(logits) == pytest.approx(theirs.compute()[0].item(), rel=1e-5)
    with pytest.raises(ValueError, match="cannot be split"):
        inception_score(logits, splits=41)


def transcribed(x, y, k):
    """Formulas (1) to (4) point by point, in plain Python."""

    def radius(z, cloud):
        return sorted(math.dist(z, other) for other in cloud)[k]  # its own distance, 0, comes first

    balls_y, balls_x = [radius(z, y) for z in y], [radius(z, x) for z in x]
    inside = [[math.dist(a, b) <= r for b, r in zip(y, balls_y, strict=True)] for a in x]
    precision = sum(map(any, inside)) / len(x)
    recall = sum(any(math.dist(a, b) <= r for a, r in zip(x, balls_x, strict=True)) for b in y) / len(y)
    density = sum(map(sum, inside)) / (k * len(x))
    coverage = sum(any(row[j] for row in inside) for j in range(len(y))) / len(y)
    return precision, recall, density, coverage


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_recall_density_coverage_are_their_definitions(k):
    x, y = 1.5 * normal(40, 3), 0.5 + normal(30, 3, seed=1)
    assert precision_recall(x, y, k=k, density_k=k) == pytest.approx(transcribed(x.tolist(), y.tolist(), k), abs=1e-12)
    mixed = precision_recall(x, y)
    assert mixed[:2] == pytest.approx(transcribed(x.tolist(), y.tolist(), 3)[:2], abs=1e-12)
    assert mixed[2:] == pytest.approx(transcribed(x.tolist(), y.tolist(), 5)[2:], abs=1e-12)


def test_clouds_far_apart_score_zero_and_a_cloud_against_itself_one():
    x = normal(30, 2)
    assert precision_recall(x, x + 1000) == (0, 0, 0, 0)
    precision, recall, density, coverage = precision_recall(x, x)
    assert (precision, recall, coverage) == (1, 1, 1)
    assert density == pytest.approx(6 / 5)  # each closed ball holds its centre and five neighbours


def test_a_single_mode_is_precise_and_does_not_recall():
    real = torch.cat((normal(100, 2), 50 + normal(100, 2, seed=1)))
    scores = precision_recall(normal(200, 2, seed=2), real)
    assert scores.precision > 0.9
    assert scores.recall < 0.55
    assert scores.coverage < 0.55


def test_real_data_have_density_one_and_the_coverage_of_exchangeable_points():
    n, m, k = 60, 50, 5
    scores = [precision_recall(normal(n, 2, seed=2 * s), normal(m, 2, seed=2 * s + 1)) for s in range(60)]
    coverage = torch.tensor([s.coverage for s in scores])
    expected = 1 - math.comb(m - 1, k) / math.comb(n + m - 1, k)
    assert coverage.mean().item() == pytest.approx(expected, abs=4 * coverage.std().item() / 60**0.5)
    density = torch.tensor([s.density for s in scores])
    assert density.mean().item() == pytest.approx(1, abs=4 * density.std().item() / 60**0.5)


def test_too_few_points_for_the_neighbours_are_refused():
    with pytest.raises(ValueError, match="more than 5 points, got 4"):
        precision_recall(normal(30, 2), normal(4, 2))
