"""Two tests of whether two clouds of samples could come from one law.

- 1-NN accuracy (Lopez-Paz and Oquab 2017): pool both clouds, classify each sample by its nearest other one.  One law gives
  0.5, a worse model up to 1; below 0.5 the model repeats the real samples it is compared with.
- class histogram: a fixed classifier labels the samples, and a chi-square test compares with the class frequencies.
"""

from __future__ import annotations

import torch
from scipy.stats import chisquare
from sklearn.svm import SVC
from torch import Tensor

from sde_diffusion.evaluation.neighbours import neighbours


def one_nn_accuracy(a: Tensor, b: Tensor, *, seed: int = 0) -> float:
    """Leave-one-out accuracy of the nearest-neighbour classifier between a (n, *d) and b (m, *d), on balanced subsets.

    The larger cloud is thinned to the size of the smaller by a random subset drawn with `seed`.
    """
    generator = torch.Generator().manual_seed(seed)
    n = min(len(a), len(b))
    a, b = (x.detach().flatten(1).double().cpu()[torch.randperm(len(x), generator=generator)[:n]] for x in (a, b))
    nearest = neighbours(torch.cat((a, b)), 1)[1][:, 0]
    generated = torch.arange(2 * n) < n
    return (generated[nearest] == generated).double().mean().item()


def class_histogram(samples: Tensor, train: Tensor, labels: Tensor, *, gamma: float = 0.064) -> tuple[list[int], float]:
    """Counts of each class among samples (n, *d), and the chi-square p-value against the training frequencies.

    Args:
        samples: (n, *d).
        train: (m, *d), with `labels` what the classifier, a support-vector machine, is fitted to.
        labels: (m,) integers 0 .. k - 1.
        gamma: kernel width, scikit-learn's example value 0.001 for these digits in 0..16, rescaled to [-1, 1] by 8^2; it classifies 99 %
            of the held-out digits.

    Returns:
        The counts, k of them, and the p-value.
    """
    classifier = SVC(gamma=gamma, random_state=0).fit(train.flatten(1).cpu().numpy(), labels.cpu().numpy())
    predicted = torch.as_tensor(classifier.predict(samples.detach().flatten(1).double().cpu().numpy()))
    frequencies = torch.bincount(labels.cpu()).double()
    counts = torch.bincount(predicted, minlength=len(frequencies))
    expected = frequencies / frequencies.sum() * len(samples)
    return counts.tolist(), float(chisquare(counts.numpy(), expected.numpy()).pvalue)
