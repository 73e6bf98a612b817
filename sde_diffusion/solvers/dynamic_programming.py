"""The grid of n steps that is best for the likelihood, found exactly.

The variational bound of a reverse chain on a grid t_n > ... > t_0 is a sum over its steps, sum_k KL(t_{k-1}, t_k), and each term follows
from the model's error at t_k alone. The best grid within given nodes is therefore a shortest path,

    C_k(t) = min_{s < t} C_{k-1}(s) + KL(s, t)                                                   (1)

T network passes for the errors, once per model, then O(n T^2) arithmetic (Watson et al. 2021, arXiv 2106.03802). What is best for the
likelihood need not be best for the eye (Watson et al. 2022, arXiv 2202.05830).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sde_diffusion.sdes import AffineSDE
from sde_diffusion.solvers.grids import ends, grid, last_noise
from sde_diffusion.solvers.variance import ReconstructionError, check_variance, step_divergence


@grid
def dynamic_programming(
    sde: AffineSDE,
    n: int,
    *,
    errors: ReconstructionError | None = None,
    variance: str = "analytic",
    t_min: float | None = None,
    t_max: float | None = None,
) -> Tensor:
    """The n steps with the smallest variational bound (1), for `Ancestral(variance)`, between nodes of a chain or levels of `errors`.

    A chain's last step is that from its first node to t_min = 0, for otherwise the path would leave out the small noise altogether.

    Args of the grid:
        errors: of the model that is sampled, on a chain best measured at all nodes.
        variance: "posterior", "forward" or "analytic", as the solver's.
    """
    if errors is None:
        raise ValueError("dynamic_programming follows from a model's errors; pass errors=ReconstructionError.estimate(denoiser, data)")
    check_variance(variance, errors)
    start, end = ends(sde, t_min, t_max)
    stop = last_noise(sde, end)
    extra = [] if stop == end else [end]
    if n == len(extra):
        return torch.tensor([start, end], dtype=torch.float64)
    nodes = _nodes(sde, errors, stop, start)
    path = _shortest_path(_costs(sde, nodes, errors, variance), n - len(extra))
    return torch.cat([nodes[path].flip(0), torch.tensor(extra, dtype=torch.float64)])


def variational_bound(sde: AffineSDE, times: Tensor, errors: ReconstructionError, *, variance: str = "analytic") -> float:
    """Sum of KL over the steps of a grid, in nats per dimension; a last step to t = 0, whose term is the decoder's, is left out.

    Args:
        sde: the process.
        times: decreasing, (n + 1,).
        errors: of the model.
        variance: as for `Ancestral`: "posterior", "forward" or "analytic".
    """
    check_variance(variance, errors)
    times = times[sde.sigma(times) > 0]
    return float(step_divergence(sde, times[:-1], times[1:], errors, variance).sum())


def _nodes(sde: AffineSDE, errors: ReconstructionError, stop: float, start: float) -> Tensor:
    """The times between which the path may choose, increasing, with both ends."""
    if sde.length is not None:
        between = torch.arange(1, sde.length, dtype=torch.float64) / sde.length
    else:
        between = sde.t_of_log_snr(torch.tensor(errors.log_snr, dtype=torch.float64)).flip(0)
    gap = (start - stop) * 1e-9  # an end that was measured too is one node, not two
    inside = between[(between > stop + gap) & (between < start - gap)]
    return torch.cat([torch.tensor([stop], dtype=torch.float64), inside, torch.tensor([start], dtype=torch.float64)])


def _costs(sde: AffineSDE, nodes: Tensor, errors: ReconstructionError, variance: str) -> Tensor:
    """KL of the step from node r to node s at [r, s], infinite unless s < r."""
    r, s = torch.tril_indices(len(nodes), len(nodes), offset=-1)
    costs = torch.full((len(nodes), len(nodes)), torch.inf, dtype=torch.float64)
    costs[r, s] = step_divergence(sde, nodes[r], nodes[s], errors, variance)
    return costs


def _shortest_path(costs: Tensor, n: int) -> Tensor:
    """The n + 1 nodes, increasing, of the cheapest path of n steps from the first node to the last."""
    if n >= len(costs):
        raise ValueError(f"{len(costs)} nodes have no path of {n} steps; use at most {len(costs) - 1}, or measure errors at more times")
    total, choices = costs[:, 0], []
    for _ in range(n - 1):
        total, choice = (costs + total).min(1)
        choices.append(choice)
    path = [len(costs) - 1]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return torch.tensor([*path, 0]).flip(0)
