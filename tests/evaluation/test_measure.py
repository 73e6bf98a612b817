import importlib.util
import math
import sys

import pytest
import torch

from sde_diffusion.data import load
from sde_diffusion.evaluation.digits_classifier import DigitsClassifier, Recipe
from sde_diffusion.evaluation.features import ModuleFeatures, Pixels
from sde_diffusion.evaluation.frechet import frechet_distance
from sde_diffusion.evaluation.measure import IN_PIXELS, KNOWN, OF_IMAGES, OF_LABELS, OF_POINTS, measure


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    DigitsClassifier.load(folder)
    return folder


@pytest.fixture(scope="module")
def digits():
    data = load("digits")
    return data.train.take(), data.held_out.take().x


def test_the_digits_classifier_knows_97_of_100_held_out_digits(folder):
    x, labels, _ = load("digits").held_out.take()
    classifier = DigitsClassifier.load(folder)
    logits = classifier.logits(x)
    assert logits.shape == (360, 10)
    assert classifier(x).shape == (360, 64)
    assert (logits.argmax(1) == labels).double().mean() >= 0.97


def test_the_digits_classifier_is_read_from_its_file_and_another_recipe_has_another(folder):
    (path,) = folder.iterdir()
    before = path.stat().st_mtime_ns
    assert DigitsClassifier.load(folder).key == DigitsClassifier.load(folder).key
    assert path.stat().st_mtime_ns == before
    short = Recipe(epochs=1)
    other = DigitsClassifier.load(folder, recipe=short)
    assert len(list(folder.iterdir())) == 2
    assert other.key != DigitsClassifier.load(folder).key


def test_digits_get_all_metrics_of_images_with_intervals_around_the_values_and_floors_in_them(digits, folder):
    (x, labels, _), held_out = digits
    found = measure(x[:200], x, held_out[:150], labels=labels, resamples=20, cache=folder)
    names = [(m.features, m.metric) for m in found]
    expected = [("digits-classifier", n) for n in OF_IMAGES] + [("pixels", n) for n in (*IN_PIXELS, *OF_LABELS)]
    assert sorted(names) == sorted(expected)
    for m in found:
        assert m.low <= m.value <= m.high
        if m.metric != "class_p":
            width = m.high - m.low
            assert m.low - width / 4 <= m.floor <= m.high + width / 4, m  # training digits are real
            assert 0 < width < math.inf


def test_noise_is_told_from_digits_by_every_metric(digits, folder):
    (x, labels, _), held_out = digits
    noise = normal(150, 1, 8, 8).clamp(-1, 1)
    found = {(m.features, m.metric): m for m in measure(noise, x, held_out[:150], labels=labels, resamples=20, cache=folder)}
    for (_, name), m in found.items():
        if name in ("frechet", "kid", "one_nn_accuracy", "class_variation"):
            assert m.low > m.floor, m
        elif name in ("recall", "density", "coverage", "inception_score") and m.features != "pixels":
            assert m.high < m.floor, m
    assert found["pixels", "class_p"].value < 1e-6


def test_points_get_the_metrics_of_points():
    pytest.importorskip("ot")
    train, held_out = normal(300, 2), normal(120, 2, seed=1)
    found = {m.metric: m for m in measure(normal(150, 2, seed=2) + 1, train, held_out, resamples=10)}
    assert set(found) == set(OF_POINTS)
    for name in ("sliced_wasserstein", "w2", "energy", "mmd", "c2st_accuracy"):
        assert found[name].low > found[name].floor
    assert found["c2st_p"].value < 0.01
    assert found["w2"].value == pytest.approx(math.sqrt(2), abs=0.35)


def test_a_metric_is_the_function_of_its_name(digits):
    (x, _, _), held_out = digits
    (m,) = measure(x[:100], x, held_out, features=Pixels(), metrics=["frechet"])
    assert m.value == frechet_distance(x[:100], held_out)
    assert (m.n, m.ideal, m.features) == (100, 0.0, "pixels")


def test_measuring_is_deterministic_in_its_seed(digits, folder):
    (x, labels, _), held_out = digits
    options = {"labels": labels, "metrics": ["precision", "one_nn_accuracy", "class_variation"], "resamples": 10, "cache": folder}
    once, again, other = (measure(x[:60], x, held_out[:80], seed=s, **options) for s in (0, 0, 1))
    assert once == again
    assert once != other


class Flat(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        return x.flatten(1)[:, ::8]


def test_real_features_are_computed_once(digits, tmp_path):
    (x, _, _), held_out = digits
    module = Flat()
    features = ModuleFeatures(module, name="some pixels")
    results = [measure(x[:50], x, held_out, features=features, metrics=["frechet"], cache=tmp_path) for _ in range(2)]
    assert module.seen == 50 + len(x) + len(held_out) + 50
    assert results[0] == results[1]
    assert results[0][0].features == "some pixels"


def test_several_extractors_and_images_without_a_classifier():
    x = normal(80, 3, 4, 4)
    found = measure(x[:30], x, x[40:], features=[Pixels(), ModuleFeatures(Flat(), name="flat")], metrics=["kid", "recall"])
    assert [(m.metric, m.features) for m in found] == [("kid", "pixels"), ("recall", "pixels"), ("kid", "flat"), ("recall", "flat")]
    alone = measure(x[:30], x, x[40:], resamples=5)
    assert {m.metric for m in alone} == set(OF_IMAGES) - {"inception_score"}


def test_large_clouds_are_thinned_for_transport_and_say_so():
    pytest.importorskip("ot")
    (m,) = measure(normal(700, 2), normal(600, 2, seed=1), normal(600, 2, seed=2), metrics="w2", resamples=2)
    assert m.n == 500


def test_few_samples_are_measured_by_what_needs_few(digits):
    (x, _, _), held_out = digits
    few = {m.metric for m in measure(x[:11], x, held_out[:20], features=Pixels(), resamples=4)}
    assert few == {"frechet", "kid", "one_nn_accuracy"}
    assert {m.metric for m in measure(x[:12], x, held_out[:12], features=Pixels(), resamples=4)} >= {"recall", "coverage"}
    with pytest.raises(ValueError, match="5 neighbours need more than 5 points"):
        measure(x[:20], x, held_out[:10], features=Pixels(), metrics=["recall"])


def test_bad_requests_are_refused(digits):
    (x, _, _), held_out = digits
    with pytest.raises(ValueError, match=r"unknown metric 'frechett'; did you mean 'frechet'\? choose from " + ", ".join(KNOWN)):
        measure(x, x, held_out, metrics=["frechett"], features=Pixels())
    with pytest.raises(ValueError, match="need the labels"):
        measure(x, x, held_out, metrics=["class_p"], features=Pixels())
    with pytest.raises(ValueError, match="needs an extractor with class logits, got pixels"):
        measure(x, x, held_out, metrics=["inception_score"], features=Pixels())
    with pytest.raises(ValueError, match=r"samples have shape \(2,\)"):
        measure(normal(10, 2), x, held_out)
    with pytest.raises(ValueError, match=r"training data have shape \(2,\)"):
        measure(held_out, normal(10, 2), held_out)
    with pytest.raises(ValueError, match="not finite"):
        measure(torch.full_like(x, torch.nan), x, held_out)


def test_exact_transport_is_measured_by_default_only_where_its_library_is(monkeypatch):
    points = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    monkeypatch.setitem(sys.modules, "ot", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "w2" not in {m.metric for m in measure(points[:20], points[20:], points[:20], resamples=2)}
    with pytest.raises(ModuleNotFoundError, match=r"sde_diffusion\[evaluation\]"):
        measure(points[:20], points[20:], points[:20], metrics=["w2"], resamples=2)
