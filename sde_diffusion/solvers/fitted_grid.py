"""The grid on which a fitted solver has the smallest local error, found exactly within nodes.

On accurate trajectories z = x/alpha, rho = sigma/alpha at nodes of the flow, with predictions D at each, the step from node i to node j
with the memory of node h makes the error

    E(h, i, j) = min_w | z_j - (rho_j/rho_i) z_i - (1 - rho_j/rho_i) D_i - w (D_h - D_i) |        (1)

root mean square over the paths, and the grid with n calls is the shortest path through pairs of nodes,

    C_k(i, j) = min_h C_{k-1}(h, i) + E(h, i, j).                                                 (2)

All errors follow from the inner products of z and D over the paths. Errors of steps are added as if none grew or shrank on the way, so (2)
is a start, from which the times are refined by their gradient. Watson et al. 2021 (arXiv 2106.03802) do the same for the likelihood.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.sdes.base import check_count
from sde_diffusion.solvers.trajectories import Trajectories


@torch.no_grad()
def shortest_grid(denoiser: Denoiser, trajectories: Trajectories, n: int) -> Tensor:
    """The n steps (2) between the trajectories' nodes, (n + 1,) decreasing times.

    Args:
        denoiser: the model.
        trajectories: of the model.
        n: number of steps, less than that of the nodes.

    Raises:
        ValueError: if there are too few nodes.
    """
    check_count(n=n)
    m = len(trajectories.times) - 1
    if n > m:
        raise ValueError(f"{m + 1} nodes have no path of {n} steps; generate the trajectories with nodes={n} or more")
    errors = local_errors(denoiser, trajectories)  # (h, i, j), h <= i < j; h = i: no memory
    total = errors.diagonal(dim1=0, dim2=1)[:, 0].expand(m + 1, -1).clone()  # at (i, j): the first step is from node 0
    total[1:] = torch.inf
    choices = []
    for _ in range(n - 1):
        total, choice = (total[:, :, None] + errors).min(0)
        choices.append(choice)
    i, j = int(total[:, m].argmin()), m
    path = [j, i]
    for choice in reversed(choices):
        i, j = int(choice[i, j]), i
        path.append(i)
    return trajectories.times[torch.tensor(path[::-1])]


def local_errors(denoiser: Denoiser, trajectories: Trajectories) -> Tensor:
    """(1) at [h, i, j], float64; infinite unless h < i < j or h = i < j."""
    sde, times, states = denoiser.sde, trajectories.times, trajectories.states
    alpha, rho = sde.alpha(times), sde.sigma(times) / sde.alpha(times)
    root = trajectories.weights.sqrt().to(states.device)
    m = len(times)

    def flat(x: Tensor) -> Tensor:
        return (x.flatten(1).double() * root[:, None]).flatten() / x[0].numel() ** 0.5

    z = torch.stack([flat(x / a) for x, a in zip(states, alpha.tolist(), strict=True)])
    d = torch.stack([flat(denoiser(x, t, trajectories.cond)) for x, t in zip(states[:-1], times[:-1], strict=True)])
    d = torch.cat([d, d[-1:]])  # the last node makes no step
    errors = torch.full((m, m, m), torch.inf, dtype=torch.float64)
    difference = d @ d.T
    square = difference.diagonal()
    distance = square[:, None] + square[None] - 2 * difference  # |D_h - D_i|^2
    for i in range(m - 1):
        ratio = (rho[i + 1 :] / rho[i])[:, None]
        residual = z[i + 1 :] - ratio * z[i] - (1 - ratio) * d[i]
        plain = residual.square().sum(1)
        errors[i, i, i + 1 :] = plain.sqrt()
        if i:
            along = (d[:i] - d[i]) @ residual.T
            gain = along.square() / distance[:i, i, None].clamp(min=torch.finfo(torch.float64).tiny)
            errors[:i, i, i + 1 :] = (plain - gain).clamp(min=0).sqrt()
    return errors
