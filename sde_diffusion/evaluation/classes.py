"""Whether the classes are drawn as often as in the training data.

A support-vector machine, fitted to labelled training data, classifies the samples; their shares q are compared with the training shares p:

    variation = 1/2 sum_c |q_c - p_c|, the share of samples that would have to change class,    p-value: chi-square test of q.    (1)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sde_diffusion.evaluation.measurement import Measurement, halves
from sde_diffusion.evaluation.two_sample import class_histogram

FITTED = 5000  # training samples that the classifier is fitted to: its time grows as their square
DRAWS = 200  # of the floor


@dataclass(frozen=True)
class ClassCounts:
    """Samples by class as a classifier fitted to the training data sees them, and what their shares there let expect.

    Args:
        counts: of the samples.
        expected: the training shares times the number of samples.
        p_value: of the chi-square test.
    """

    counts: tuple[int, ...]
    expected: tuple[float, ...]
    p_value: float


def class_counts(samples: Tensor, train: Tensor, labels: Tensor, *, seed: int = 0) -> ClassCounts:
    """The classes of samples (n, *d), with labels (k,) of the training data (k, *d)."""
    from scipy.stats import chisquare

    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:FITTED]
    width = 1 / (train[0].numel() * max(train.double().var().item(), torch.finfo(torch.float64).tiny))  # scikit-learn's "scale"
    counts, _ = class_histogram(samples, train[chosen], labels[chosen], gamma=width)
    shares = torch.bincount(labels.cpu(), minlength=len(counts)).double() / len(labels)
    counts += [0] * (len(shares) - len(counts))
    expected, present = shares * len(samples), shares > 0
    p_value = float(chisquare(torch.tensor(counts)[present].numpy(), expected[present].numpy()).pvalue)
    return ClassCounts(tuple(counts), tuple(expected.tolist()), p_value)


def class_measurements(samples: Tensor, train: Tensor, labels: Tensor, *, resamples: int = 100, seed: int = 0) -> list[Measurement]:
    """The metrics "class_variation" and "class_p" of samples (n, *d), by (1), with labels (k,) of the training data (k, *d).

    The floor of the variation is that of n draws with the training shares; errors of the classifier are not in it.
    """
    found, n = class_counts(samples, train, labels, seed=seed), len(samples)
    shares, of_samples = torch.tensor(found.expected, dtype=torch.float64) / n, torch.tensor(found.counts)
    generator = torch.Generator().manual_seed(seed)

    def variation(classes: Tensor) -> float:
        return (torch.bincount(classes, minlength=len(shares)) / len(classes) - shares).abs().sum().item() / 2

    (estimate,) = halves(variation, torch.arange(len(shares)).repeat_interleave(of_samples), resamples=resamples, seed=seed)
    low, high = estimate.interval(least=0, most=1)
    floor = sum(variation(torch.multinomial(shares, n, replacement=True, generator=generator)) for _ in range(DRAWS)) / DRAWS
    return [
        Measurement("class_variation", estimate.value, low, high, floor, 0.0, "pixels", n),
        Measurement("class_p", found.p_value, found.p_value, found.p_value, None, None, "pixels", n),
    ]
