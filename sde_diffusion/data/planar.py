"""Points in the plane whose law is known, centred and of about unit size: 10 000 of each, drawn with a fixed seed.

Moons, Ring, SwissRoll, Spirals and Pinwheel are curves with Gaussian noise (or Gaussians); Checkerboard is uniform with sharp edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_diffusion.data.base import Data, Source
from sde_diffusion.data.order import SPLIT_SEED
from sde_diffusion.data.tensors import split_tensor
from sde_diffusion.expressions import plain_floats

POINTS = 10_000  # drawn before the split


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(SPLIT_SEED)


def _noisy(points: Tensor, std: float, generator: torch.Generator) -> Tensor:
    return points + std * torch.randn(points.shape, generator=generator)


def _polar(radius: Tensor | float, angle: Tensor) -> Tensor:
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=1)


@dataclass(frozen=True, kw_only=True)
class Moons(Source):
    """Two interleaved half circles of radius 1 around (-1/2, -1/4) and (1/2, 1/4), with noise of the given std; the label is the circle."""

    std: float = 0.1

    def __post_init__(self) -> None:
        plain_floats(self)

    def load(self) -> Data:
        generator = _generator()
        angle = torch.rand(POINTS, generator=generator) * math.pi
        upper = torch.rand(POINTS, generator=generator) < 1 / 2
        x = torch.where(upper, angle.cos() - 1 / 2, 1 / 2 - angle.cos())
        y = torch.where(upper, angle.sin() - 1 / 4, 1 / 4 - angle.sin())
        return split_tensor("moons", _noisy(torch.stack((x, y), dim=1), self.std, generator), (~upper).long())


@dataclass(frozen=True, kw_only=True)
class Ring(Source):
    """Gaussians of the given std, equally spaced on a circle, with equal weights; the label is the mode."""

    modes: int = 8
    radius: float = 1.0
    std: float = 0.1

    def __post_init__(self) -> None:
        plain_floats(self)

    def load(self) -> Data:
        generator = _generator()
        mode = torch.randint(self.modes, (POINTS,), generator=generator)
        angle = 2 * math.pi * mode / self.modes
        return split_tensor("ring", _noisy(_polar(self.radius, angle), self.std, generator), mode)


@dataclass(frozen=True, kw_only=True)
class Checkerboard(Source):
    """Uniform on the dark cells of a board of cells x cells squares that fills [-1, 1]^2; cells is even."""

    cells: int = 4

    def load(self) -> Data:
        if self.cells < 2 or self.cells % 2:
            raise ValueError(f"a checkerboard needs an even number of cells per side, got {self.cells}; use {self.cells + 1}")
        generator = _generator()
        row = torch.randint(self.cells, (POINTS,), generator=generator)
        column = 2 * torch.randint(self.cells // 2, (POINTS,), generator=generator) + row % 2
        inside = torch.rand(POINTS, 2, generator=generator)
        return split_tensor("checkerboard", (torch.stack((column, row), dim=1) + inside) * 2 / self.cells - 1)


@dataclass(frozen=True, kw_only=True)
class SwissRoll(Source):
    """The spiral r = angle/(4.5 pi) for angles in [1.5 pi, 4.5 pi], uniform in the angle, centred, with noise of the given std."""

    std: float = 0.03

    def __post_init__(self) -> None:
        plain_floats(self)

    def load(self) -> Data:
        generator = _generator()
        end = 4.5 * math.pi
        angle = 1.5 * math.pi + 3 * math.pi * torch.rand(POINTS, generator=generator)
        # E[r cos] and E[r sin] over the angle: integrals of a cos a, a sin a over [1.5 pi, 4.5 pi], divided by 3 pi end
        mean = torch.tensor([(end + 1.5 * math.pi), (1 + 1)]) / (3 * math.pi * end)
        return split_tensor("swiss_roll", _noisy(_polar(angle / end, angle) - mean, self.std, generator))


@dataclass(frozen=True, kw_only=True)
class Spirals(Source):
    """Two spirals r = angle/(3 pi), one the other's mirror image through 0, uniform in area; the label is the spiral."""

    std: float = 0.03

    def __post_init__(self) -> None:
        plain_floats(self)

    def load(self) -> Data:
        generator = _generator()
        r = torch.rand(POINTS, generator=generator).sqrt()
        arm = torch.randint(2, (POINTS,), generator=generator)
        return split_tensor("spirals", _noisy(_polar(r, math.pi * (3 * r + arm)), self.std, generator), arm)


@dataclass(frozen=True, kw_only=True)
class Pinwheel(Source):
    """Gaussian blades, each bent by a rotation of `twist` radians per unit of radius; the label is the blade.

    Blade k holds rotations by 2 pi k/blades + twist r of points (r, s), r ~ N(0.7, 0.2^2), s ~ N(0, 0.08^2).
    """

    blades: int = 5
    twist: float = 1.0

    def __post_init__(self) -> None:
        plain_floats(self)

    def load(self) -> Data:
        generator = _generator()
        blade = torch.randint(self.blades, (POINTS,), generator=generator)
        r, s = (torch.randn(2, POINTS, generator=generator) * torch.tensor([[0.2], [0.08]])) + torch.tensor([[0.7], [0.0]])
        angle = 2 * math.pi * blade / self.blades + self.twist * r
        points = torch.stack((r * angle.cos() - s * angle.sin(), r * angle.sin() + s * angle.cos()), dim=1)
        return split_tensor("pinwheel", points, blade)
