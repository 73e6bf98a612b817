"""Averages of a network's weights over training: the weights to sample with.

An average follows the weights w by

    w_avg <- w_avg + (1 - beta_n) (w - w_avg)      at update n = 0, 1, ...                                                        (1)

and its profile, the weight that it gives to each past update, is set by beta alone:

    exponential   beta_n = min(decay, (1 + n)/(10 + n))            remembers about the last 1/(1 - decay) updates                 (2)
    power         beta_n = (1 - 1/t)^(gamma + 1),  t = n + 1       remembers the same share of the run, however long it is        (3)

The second argument of (2) is a warm-up that forgets the random initial weights, that of TensorFlow's ExponentialMovingAverage. Under (3)
the weights after update i count for (i^(gamma+1) - (i-1)^(gamma+1)) / t^(gamma+1), the share of (i - 1, i] in the density

    p(tau) = (gamma + 1) tau^gamma / t^(gamma+1)   on [0, t],                                                                     (4)

whose mean (gamma+1)/(gamma+2) t and second moment (gamma+1)/(gamma+3) t^2 give it the standard deviation

    std t,    std = (gamma + 1)^(1/2) (gamma + 2)^(-1) (gamma + 3)^(-1/2).                                                        (5)

References: Ho et al. 2020 and Song and Ermon 2020 for (2); Karras et al. 2024, "Analyzing and Improving the Training Dynamics of
Diffusion Models" (arXiv 2312.02696), for (3), whose averages of any other width can be had after training: see post_hoc.py.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sde_diffusion.expressions import plain_floats

WIDEST = 12**-0.5
"""The relative width (5) of the uniform average, gamma = 0; wider profiles would count early weights more than late ones."""


@dataclass(frozen=True)
class ExponentialAverage:
    """An average that forgets at a constant rate: (2).

    Args:
        decay: in [0, 1); 0.999 averages about the last thousand updates.
        warmup: whether the decay rises from 0.1, by the second argument of (2).

    Raises:
        ValueError: for a decay outside [0, 1).
    """

    decay: float
    warmup: bool = True

    def __post_init__(self) -> None:
        plain_floats(self)
        if not 0 <= self.decay < 1:
            raise ValueError(f"the decay of an average must lie in [0, 1), got {self.decay}; use 0.999")

    @property
    def name(self) -> str:
        """Such as "0.999"."""
        return repr(self.decay)

    def beta(self, n: int) -> float:
        """The share of the past that update n = 0, 1, ... keeps."""
        return min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay


@dataclass(frozen=True)
class PowerAverage:
    """An average over a fixed share of the run, whatever its length: (3).

    Args:
        std: the relative width (5), in (0, 12^(-1/2)]; Karras et al. 2024 store 0.05 and 0.10.

    Raises:
        ValueError: for another width.
    """

    std: float

    def __post_init__(self) -> None:
        plain_floats(self)
        if not 0 < self.std <= WIDEST:
            raise ValueError(
                f"the relative width of a power-function average must lie in (0, {WIDEST:.4f}], where the widest is the uniform average,"
                f" got {self.std}; use 0.05 and 0.1"
            )

    @property
    def name(self) -> str:
        """Such as "power-0.05"."""
        return f"power-{self.std!r}"

    @property
    def gamma(self) -> float:
        """The exponent of (3): (5) squared is the cubic (gamma + 2)^2 (gamma + 3) = (gamma + 1)/std^2, and gamma its largest root."""
        # Newton's method falls to the root from 1/std, where the cubic is 6/std^2 + 16/std + 12 > 0, right of the root, and convex.
        gamma, s = 1 / self.std, self.std**-2
        while True:
            value = (gamma + 2) ** 2 * (gamma + 3) - s * (gamma + 1)
            lower = max(gamma - value / ((gamma + 2) * (3 * gamma + 8) - s), 0.0)
            if not lower < gamma:
                return gamma
            gamma = lower

    def beta(self, n: int) -> float:
        """The share of the past that update n = 0, 1, ... keeps; none at the first."""
        return (n / (n + 1)) ** (self.gamma + 1)


class Averages:
    """Averaged copies of a network, one per profile, in float32 at least.

    Parameters and floating-point buffers are averaged, counters copied. An update is a function of (copies, network, n) alone. The copies
    live where the network does when they are made; a network that will be sharded (`fully_shard`) is to be averaged before that, and its
    copies `network(name)` sharded likewise.

    Args:
        network: what is being trained; the copies start from its weights.
        decays: of exponential averages, the first of which is what `network()` returns.
        stds: relative widths of power-function averages.
        warmup: whether exponential averages warm up.

    Raises:
        ValueError: for a decay or width out of range, a profile given twice, or none.
    """

    def __init__(self, network: nn.Module, *, decays: Sequence[float] = (0.999,), stds: Sequence[float] = (), warmup: bool = True) -> None:
        self.profiles: tuple[ExponentialAverage | PowerAverage, ...] = (
            *(ExponentialAverage(d, warmup) for d in decays),
            *(PowerAverage(s) for s in stds),
        )
        self.names = tuple(profile.name for profile in self.profiles)
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"averages need one or more profiles, each once, got decays={tuple(decays)}, stds={tuple(stds)}")
        self._networks = {name: _precise(copy.deepcopy(network)).requires_grad_(False).eval() for name in self.names}

    @torch.no_grad()
    def update(self, network: nn.Module, n: int) -> None:
        """Update number n (from 0) by the weights of `network`: (1)."""
        theirs = _tensors(network)
        for profile in self.profiles:
            mine = _tensors(self._networks[profile.name])
            averaged, followed = [], []
            for a, w in zip(mine, theirs, strict=True):
                if a.is_floating_point():
                    averaged.append(a)
                    followed.append(w if w.dtype == a.dtype else w.to(a.dtype))
                else:
                    a.copy_(w)
            # Straight on the modules' tensors: 0.34 ms for the 66 tensors of a U-Net of 0.4 M weights, 0.53 ms by way of AveragedModel,
            # which also waits for the device at each update to read how many there were.
            torch._foreach_lerp_(averaged, followed, 1 - profile.beta(n))

    def network(self, name: str | None = None) -> nn.Module:
        """The copy that holds an average, in evaluation mode and without gradients: itself, which further updates change.

        Args:
            name: one of `names`; None for the first.

        Raises:
            ValueError: for an average that is not kept.
        """
        name = self.names[0] if name is None else name
        if name not in self._networks:
            raise ValueError(f"no average {name!r} is kept; use one of {', '.join(self.names)}")
        return self._networks[name]

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of every average by its name."""
        return {name: dict(network.state_dict()) for name, network in self._networks.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Sets every average; those that `state` holds besides are left out.

        Raises:
            ValueError: where an average is missing.
        """
        missing = [name for name in self.names if name not in state]
        if missing:
            raise ValueError(
                f"the state holds the averages {', '.join(state) or '(none)'}, not {', '.join(missing)};"
                " an average cannot begin in the middle of a run: keep those that it began with"
            )
        for name in self.names:
            self._networks[name].load_state_dict(state[name])


def _tensors(network: nn.Module) -> list[Tensor]:
    """Parameters and buffers; of what is sharded, the part on this process, as an average is the same in every part."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in (*network.parameters(), *network.buffers())]


def _precise(network: nn.Module) -> nn.Module:
    """Widens what is narrower than float32, in which an update by 1e-4 of a difference would be rounded away."""
    for tensor in _tensors(network):
        if tensor.is_floating_point() and tensor.dtype.itemsize < torch.float32.itemsize:
            tensor.data = tensor.data.float()
    return network
