"""Where randomness comes from.

A noise source is any function x -> z that returns standard normal numbers of the shape, dtype and device of x. Samplers and losses
are handed one; nothing in the package seeds, reads or advances torch's global generator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

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


@dataclasses.dataclass(frozen=True)
class Positioned:
    """Gives position i of an endless batch the same numbers to whoever draws it, in whatever part: training on any number of processes.

    Position i belongs to block i // k of k = max(1, 4096/n) samples of n numbers, and each block has a generator of its own, seeded by
    the key and the block. Without state: the same call gives the same numbers.

    Args:
        key: what the numbers depend on, such as (seed, step).
        start: the position of the first sample that is drawn.
    """

    key: tuple[int, ...]
    start: int = 0

    size: ClassVar[int] = 4096  # numbers per block: fewer blocks to seed for small samples, at most two blocks too many for large ones

    def __call__(self, x: Tensor) -> Tensor:
        z = torch.empty_like(x, memory_format=torch.contiguous_format)
        generator = torch.Generator(x.device)
        k = max(1, self.size // max(1, x.shape[1:].numel()))
        for block in range(self.start // k, -(-(self.start + len(x)) // k)):
            first = block * k - self.start
            rows = z[max(first, 0) : max(first + k, 0)]
            generator.manual_seed(mixed(*self.key, block))
            if len(rows) == k:
                rows.normal_(generator=generator)
            else:
                whole = torch.randn(k, *x.shape[1:], dtype=x.dtype, device=x.device, generator=generator)
                rows.copy_(whole[max(-first, 0) :][: len(rows)])
        return z


def mixed(*key: int) -> int:
    """A seed in [0, 2^31) of some integers, neighbours of which give unrelated seeds (splitmix64; Steele et al. 2014)."""
    state = 0
    for part in key:
        state = (state ^ part) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 33


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


class Brownian:
    """Brownian paths of a batch, revealed at times that each sample chooses as it goes, backwards too.

    Between the nearest known points (u, w_u) and (v, w_v) of a path its value at time s is that of the bridge,

        w_s = w_u + (s - u)/(v - u) (w_v - w_u) + sqrt((s - u)(v - s)/(v - u)) z

    and beyond the last one w_u + sqrt(s - u) z. A solver that rejects a step and looks at an earlier time so goes on with the same path;
    drawing anew would make the noise depend on what was rejected (Rackauckas & Nie 2017, "Adaptive methods for stochastic differential
    equations via natural embeddings and rejection sampling with memory").

    Args:
        like: a tensor of the shape, dtype and device of the paths, (b, *d); they start at 0 at time 0.
    """

    def __init__(self, like: Tensor) -> None:
        # Row 0 is where each path stands; then what is known ahead of it, in no order, NaN where a row is free.
        self.times = torch.zeros(1, len(like), dtype=torch.float64, device=like.device)
        self.values = torch.zeros_like(like)[None]

    def at(self, times: Tensor, z: Tensor) -> Tensor:
        """The paths (b, *d) at times (b,), not before where they stand, from standard normal numbers z (b, *d)."""
        columns = torch.arange(len(times), device=times.device)
        left = torch.where(self.times <= times, self.times, -torch.inf).argmax(0)
        gaps = torch.where(self.times > times, self.times, torch.inf)
        right = gaps.argmin(0)
        u, v = self.times[left, columns], gaps[right, columns]
        known = v.isfinite()
        part = torch.where(known, (times - u) / (v - u), 0.0)
        spread = ((times - u) * (1 - part)).sqrt()
        w_u = self.values[left, columns]
        return w_u + _column(part, z) * (self.values[right, columns] - w_u) + _column(spread, z) * z

    def move(self, times: Tensor, values: Tensor, accepted: Tensor) -> None:
        """Moves the accepted (b,) paths to the point (times, values) and remembers it for the others as lying ahead."""
        ahead = self.times[1:]
        ahead[accepted & (ahead <= times)] = torch.nan
        if not accepted.all():
            if not (accepted | ahead.isnan().any(0)).all():
                self.times = torch.cat([self.times, torch.full_like(self.times[:1], torch.nan)])
                self.values = torch.cat([self.values, torch.zeros_like(self.values[:1])])
            columns = (~accepted).nonzero()[:, 0]
            rows = 1 + self.times[1:, columns].isnan().double().argmax(0)
            self.times[rows, columns], self.values[rows, columns] = times[columns], values[columns]
        self.times[0] = torch.where(accepted, times, self.times[0])
        self.values[0] = torch.where(_column(accepted, values).bool(), values, self.values[0])

    def select(self, index: Tensor) -> None:
        """Keeps the paths `index` only."""
        self.times, self.values = self.times[:, index], self.values[:, index]


def _column(a: Tensor, x: Tensor) -> Tensor:
    return a.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


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
