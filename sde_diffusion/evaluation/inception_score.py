"""The inception score (Salimans et al. 2016): samples that a classifier finds clear and, together, diverse.

    IS = exp( mean_i KL(p(y | x_i) || mean_j p(y | x_j)) ),   between 1 and the number of classes.                          (1)

It does not look at real data at all; its floor is the score of real samples.
"""

from __future__ import annotations

import math

from torch import Tensor


def inception_score(logits: Tensor, *, splits: int = 1) -> float:
    """The inception score (1) from class logits (n, classes), in float64.

    Args:
        logits: of the samples; their order matters only with several splits.
        splits: consecutive parts whose scores are averaged; published numbers often take 10, which lowers the score of few samples.

    Raises:
        ValueError: for fewer samples than parts.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"{len(logits)} samples cannot be split into {splits} parts; lower splits")
    scores = []
    for part in logits.detach().double().cpu().tensor_split(splits):
        log_p = part.log_softmax(1)
        log_marginal = log_p.logsumexp(0) - math.log(len(part))
        scores.append((log_p.exp() * (log_p - log_marginal)).sum(1).mean().exp().item())
    return sum(scores) / splits
