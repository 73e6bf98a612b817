"""Where randomness comes from.

A noise source is any function x -> z that returns standard normal numbers of the shape, dtype and device of x. Samplers and losses
are handed one; nothing in the package seeds, reads or advances torch's global generator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

Noise = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Draws everything from one generator, in the order of the calls.

    Args:
        generator: where the numbers come from; if it lives on another device than x, they are drawn there and moved.
    """

    generator: torch.Generator

    def __call__(self, x: Tensor) -> Tensor:
        z = torch.randn(x.shape, generator=self.generator, dtype=x.dtype, device=self.generator.device)
        return z if z.device == x.device else z.to(x.device)


class PerSample:
    """Gives sample i the numbers of its own seed, whatever the batch, its order, its splitting or the number of processes.

    Args:
        seeds: one integer per sample, in the order of the batch.

    Raises:
        ValueError: if it is called on a batch whose length is not the number of seeds.
    """

    block = 4096  # numbers drawn at once per sample: 64 calls of torch.randn for 64 samples would cost more than an 8x8 network

    def __init__(self, seeds: Iterable[int]) -> None:
        self.seeds = tuple(int(s) for s in seeds)
        self._generators = [torch.Generator().manual_seed(s) for s in self.seeds]
        self._buffers: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def __repr__(self) -> str:
        return f"PerSample({list(self.seeds)})"

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) != len(self.seeds):
            raise ValueError(f"PerSample has {len(self.seeds)} seeds for a batch of {len(x)}; pass one seed per sample")
        n = x.shape[1:].numel()
        buffer = self._buffers.get((x.dtype, x.device))
        if buffer is None or buffer.shape[1] < n:
            # Refilled by a rule that depends on one sample's size alone, so that a sample never sees its batch.
            size = max(self.block // max(n, 1), 1) * n
            draws = [torch.randn(size, generator=g, dtype=x.dtype) for g in self._generators]
            buffer = torch.stack(draws).to(x.device) if draws else x.new_empty(0, size)
        z, self._buffers[x.dtype, x.device] = buffer[:, :n], buffer[:, n:]
        return z.reshape(x.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Antithetic:
    """Gives the second half of the batch the negative of the first half's numbers (an odd middle sample belongs to the first).

    Args:
        noise: the source of the first half.
    """

    noise: Noise

    def __call__(self, x: Tensor) -> Tensor:
        half = (len(x) + 1) // 2
        z = self.noise(x[:half])
        return torch.cat([z, -z[: len(x) - half]])


class Replay:
    """Returns given draws one after the other, to run two samplers on the same noise.

    Args:
        draws: tensors of the shapes that will be asked for, in order.

    Raises:
        ValueError: if a draw is missing or has another shape than x.
    """

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self.draws = list(draws)
        self.used = 0

    def __call__(self, x: Tensor) -> Tensor:
        if self.used == len(self.draws):
            raise ValueError(f"Replay holds {len(self.draws)} draws and was asked for one more; record as many as the solver uses")
        z = self.draws[self.used]
        if z.shape != x.shape:
            raise ValueError(f"draw {self.used} of Replay has shape {tuple(z.shape)}, the state has {tuple(x.shape)}")
        self.used += 1
        return z.to(x)


class Record:
    """Hands on the draws of another source and keeps them in `draws`, for `Replay`."""

    def __init__(self, noise: Noise) -> None:
        self.noise = noise
        self.draws: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.draws.append(self.noise(x))
        return self.draws[-1]


def make_noise(noise: Noise | None = None, *, generator: torch.Generator | None = None, seeds: Iterable[int] | None = None) -> Noise:
    """Returns the noise source that `noise=`, `generator=` or `seeds=` names; without any, a stream seeded by the operating system.

    Raises:
        ValueError: if more than one is given.
    """
    given = [name for name, value in (("noise", noise), ("generator", generator), ("seeds", seeds)) if value is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} each name a source of randomness; pass one of them")
    if noise is not None:
        return noise
    if seeds is not None:
        return PerSample(seeds)
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    return Stream(generator)
