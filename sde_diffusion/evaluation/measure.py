"""All the metrics that suit the data, each with a 95 % interval and its floor, real data against real data at equal sizes.

    images    frechet, kid, precision, recall, density, coverage, one_nn_accuracy; inception_score where the extractor classifies
    digits    those in the features of the built-in classifier, and frechet and one_nn_accuracy in pixels
    points    sliced_wasserstein, w2 where POT is installed, energy, mmd, c2st_accuracy, c2st_p, one_nn_accuracy

and of class labels, where the training data have any, class_variation and class_p.  The reference is the held-out data.

What the intervals hold is said in `measurement`: both clouds drawn anew, at these sizes.  Metrics over pairs of points see a random
subset of large clouds, and `Measurement.n` says how large.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.evaluation.classes import class_measurements
from sde_diffusion.evaluation.digits_classifier import DigitsClassifier
from sde_diffusion.evaluation.features import Classifier, FeatureExtractor, Pixels, cached_features, cached_logits
from sde_diffusion.evaluation.frechet import frechet_distance, frechet_estimate
from sde_diffusion.evaluation.inception_score import inception_score
from sde_diffusion.evaluation.kernel_distances import energy_distance, mmd
from sde_diffusion.evaluation.kid import kid
from sde_diffusion.evaluation.measurement import Estimate, Measurement, floor, halves
from sde_diffusion.evaluation.precision_recall import precision_recall
from sde_diffusion.evaluation.transport import sliced_wasserstein, wasserstein
from sde_diffusion.evaluation.two_sample import one_nn_accuracy
from sde_diffusion.evaluation.two_sample_classifier import c2st

PAIRED = 10_000  # most points of a metric over pairs: 10^8 of them
TRANSPORTED = 500  # most points of exact transport, whose time grows as their cube
CLASSIFIED = 1000  # most points of the classifier test
PAIRS = 10**8  # n m times the number of halves: clouds of over 10^6 pairs are halved less often than asked for ...
LEAST = 20  # ... but no less than this, if asked for
DIGITS_SHAPE = (1, 8, 8)
PIXELS = 1024  # most pixels in which distances are measured beside features


@dataclass(frozen=True)
class Family:
    """Metrics that one computation gives.

    Args:
        names: of the numbers.
        value: (samples, reference) to the numbers.
        ideals: of the numbers.
        least: lower end of their range.
        most: upper end for each.
        estimate: to one number with its standard error, where that is known without halving.
        limit: the most points of each cloud; larger ones are thinned.
        balanced: whether the larger cloud is thinned to the smaller.
        logits: whether the clouds are class logits.
    """

    names: tuple[str, ...]
    value: Callable[[Tensor, Tensor], Any]
    ideals: tuple[float | None, ...]
    least: float = 0.0
    most: tuple[float, ...] = (math.inf,)
    estimate: Callable[[Tensor, Tensor], Estimate] | None = None
    limit: int | None = None
    balanced: bool = False
    logits: bool = False


def _unbiased(name: str, estimate: Callable[[Tensor, Tensor], Estimate]) -> Family:
    return Family((name,), lambda a, b: estimate(a, b).value, (0.0,), least=-math.inf, estimate=estimate, limit=PAIRED)


OF_BALLS = ("precision", "recall", "density", "coverage")
FEWEST = 12  # points of OF_BALLS: half of them have five neighbours each
_leave_one_out = partial(c2st, folds=None, permutations=0)
FAMILIES = (
    Family(("frechet",), frechet_distance, (0.0,), estimate=frechet_estimate),
    _unbiased("kid", kid),
    Family(("inception_score",), lambda a, b: inception_score(a), (None,), least=1.0, logits=True),
    Family(OF_BALLS, precision_recall, (1.0, 1.0, 1.0, 1.0), most=(1.0, 1.0, math.inf, 1.0), limit=PAIRED),
    Family(("one_nn_accuracy",), one_nn_accuracy, (0.5,), most=(1.0,), limit=PAIRED, balanced=True),
    Family(("sliced_wasserstein",), sliced_wasserstein, (0.0,)),
    Family(("w2",), wasserstein, (0.0,), limit=TRANSPORTED),
    _unbiased("energy", energy_distance),
    _unbiased("mmd", mmd),
    Family(("c2st_accuracy",), lambda a, b: _leave_one_out(a, b).accuracy, (0.5,), most=(1.0,), limit=CLASSIFIED, balanced=True),
)
OF_LABELS = ("class_variation", "class_p")
KNOWN = (*(name for family in FAMILIES for name in family.names), "c2st_p", *OF_LABELS)
OF_POINTS = ("sliced_wasserstein", "w2", "energy", "mmd", "c2st_accuracy", "c2st_p", "one_nn_accuracy")
OF_IMAGES = ("frechet", "kid", "inception_score", *OF_BALLS, "one_nn_accuracy")
IN_PIXELS = ("frechet", "one_nn_accuracy")  # beside features


def measure(
    samples: Tensor,
    train: Tensor,
    held_out: Tensor,
    *,
    labels: Tensor | None = None,
    features: FeatureExtractor | Sequence[FeatureExtractor] | None = None,
    metrics: Sequence[str] | None = None,
    resamples: int = 100,
    seed: int = 0,
    cache: Path | None = None,
) -> list[Measurement]:
    """Measures samples (n, *d) against held_out (m, *d), with random subsets of train (k, *d) in their place for the floors.

    Args:
        samples: images (n, c, h, w) in [-1, 1] or points (n, d).
        train: what the model was trained on; floors are at size min(n, k).
        held_out: the reference.
        labels: (k,) classes 0, 1, ... of the training data, where they have any.
        features: the extractor or several; None: the digits' classifier and pixels for 8x8 grey images, pixels for all else.
        metrics: names of them, each measured in each of the features; None: those that suit the data, without the ones that need
            neighbours where there are fewer than 12 samples.
        resamples: random halves that make an interval, of which clouds of over a million pairs get fewer, but at least 20.
        seed: of every random choice.
        cache: folder where features of the real data, and the digits' classifier, are kept; None: features are not kept.

    Raises:
        ValueError: for an unknown metric, one that lacks labels or a classifier, shapes that differ, or values that are not finite.
    """
    _check(samples, train, held_out)
    chosen = None if metrics is None else _known(metrics)
    extractors = _extractors(features, samples, cache, alone=metrics is not None)
    if chosen and labels is None and set(chosen) & set(OF_LABELS):
        raise ValueError(f"{' and '.join(sorted(set(chosen) & set(OF_LABELS)))} need the labels of the training data; pass labels=")
    if chosen and "inception_score" in chosen and not any(isinstance(e, Classifier) for e in extractors):
        raise ValueError(f"inception_score needs an extractor with class logits, got {', '.join(e.name for e in extractors)}")
    found: list[Measurement] = []
    for extractor in extractors:
        names = _suitable(samples, held_out, extractor, alone=len(extractors) == 1) if chosen is None else chosen
        found += _in_features(extractor, names, samples, train, held_out, resamples=resamples, seed=seed, cache=cache)
    if labels is not None and (chosen is None or set(chosen) & set(OF_LABELS)):
        classes = class_measurements(samples, train, labels, resamples=resamples, seed=seed)
        found += [m for m in classes if chosen is None or m.metric in chosen]
    return found


def _in_features(
    extractor: FeatureExtractor,
    names: Sequence[str],
    samples: Tensor,
    train: Tensor,
    held_out: Tensor,
    *,
    resamples: int,
    seed: int,
    cache: Path | None,
) -> list[Measurement]:
    clouds = [extractor(samples), *(cached_features(x, extractor, cache) for x in (train, held_out))]
    found: list[Measurement] = []
    for family in FAMILIES:
        if not set(family.names) & set(names) or (family.logits and not isinstance(extractor, Classifier)):
            continue
        used = clouds
        if family.logits and isinstance(extractor, Classifier):  # the reference is not looked at
            used = [extractor.logits(samples), cached_logits(train, extractor, cache), clouds[2]]
        a, reference = _thinned(used[0], used[2], family, seed)
        if family.estimate is None:
            number = min(resamples, max(LEAST, PAIRS // (len(a) * len(reference))))
            estimates = halves(family.value, a, reference, resamples=number, seed=seed)
        else:
            estimates = [family.estimate(a, reference)]
        floors = floor(family.value, used[1], reference, len(a), seed=seed).tolist()
        for name, estimate, level, ideal, most in zip(family.names, estimates, floors, family.ideals, family.most, strict=True):
            low, high = estimate.interval(least=family.least, most=most)
            if name in names:
                found.append(Measurement(name, estimate.value, low, high, level, ideal, extractor.name, len(a)))
    if "c2st_p" in names:
        p, n = c2st(clouds[0], clouds[2], seed=seed).p_value, min(len(clouds[0]), len(clouds[2]))
        found.append(Measurement("c2st_p", p, p, p, None, None, extractor.name, n))
    return found


def _thinned(a: Tensor, b: Tensor, family: Family, seed: int) -> tuple[Tensor, Tensor]:
    """Random subsets once and for all: if each half were thinned anew, that chance would count as spread."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [min(len(x), family.limit or len(x)) for x in (a, b)]
    if family.balanced:
        sizes = [min(sizes)] * 2
    first, second = (
        x if size == len(x) else x[torch.randperm(len(x), generator=generator)[:size]] for x, size in zip((a, b), sizes, strict=True)
    )
    return first, second


def _known(metrics: Sequence[str]) -> Sequence[str]:
    for name in [metrics] if isinstance(metrics, str) else metrics:
        if name not in KNOWN:
            close = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"unknown metric {name!r}; {hint}choose from {', '.join(KNOWN)}")
    return [metrics] if isinstance(metrics, str) else metrics


def _suitable(samples: Tensor, held_out: Tensor, extractor: FeatureExtractor, *, alone: bool) -> tuple[str, ...]:
    if samples.ndim == 2 and isinstance(extractor, Pixels):
        return tuple(name for name in OF_POINTS if name != "w2" or importlib.util.find_spec("ot") is not None)
    if isinstance(extractor, Pixels) and not alone:
        return IN_PIXELS if samples[0].numel() <= PIXELS else IN_PIXELS[1:]
    if min(len(samples), len(held_out)) < FEWEST:
        return tuple(name for name in OF_IMAGES if name not in OF_BALLS)
    return OF_IMAGES


def _extractors(
    features: FeatureExtractor | Sequence[FeatureExtractor] | None, samples: Tensor, cache: Path | None, *, alone: bool
) -> list[FeatureExtractor]:
    if features is None:
        if tuple(samples.shape[1:]) != DIGITS_SHAPE:
            return [Pixels()]
        classifier = DigitsClassifier.load(cache)
        return [classifier] if alone else [classifier, Pixels()]
    return list(features) if isinstance(features, Sequence) else [features]


def _check(samples: Tensor, train: Tensor, held_out: Tensor) -> None:
    for name, x in (("samples", samples), ("training data", train)):
        if x.shape[1:] != held_out.shape[1:]:
            raise ValueError(
                f"the {name} have shape {tuple(x.shape[1:])}, the held-out data {tuple(held_out.shape[1:])};"
                " compare samples with the data their model was trained on"
            )
    if not samples.isfinite().all():
        raise ValueError(f"{int((~samples.isfinite()).sum())} values of the samples are not finite; sample with more steps")
