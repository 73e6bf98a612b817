"""Weights and images that every golden is computed with, here and in the reference: drawn by NumPy, so that no initialiser matters.

numpy.random.RandomState is frozen (NEP 19): its stream is the same for every version of NumPy, on every machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

OFFSETS = ("bias", "beta", "b")  # last part of the key of what is added
NORMS = "embed.weight"  # scales (and offsets) of a conditional norm, one row per noise level


def random_state(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Draws a float32 state dict: offsets N(0, 0.1^2), scales N(1, 0.1^2), other weights N(0, 1/fan_in), in the order of sorted keys.

    Scales are whatever else has one axis, and the tables of conditional norms; fan_in is the product of all axes but the first.
    No entry is zero or equal to another, so that any mix-up of two weights changes the output.

    Args:
        shapes: key -> shape, of every entry of the state dict.
        seed: of the RandomState.
    """
    random = np.random.RandomState(seed)
    state = {}
    for key in sorted(shapes):
        shape = tuple(shapes[key])
        z = random.standard_normal(shape)
        if key.rpartition(".")[2] in OFFSETS:
            values = 0.1 * z
        elif len(shape) < 2 or key.endswith(NORMS):
            values = 1 + 0.1 * z
        else:
            values = z / np.sqrt(np.prod(shape[1:]))
        state[key] = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return state


def random_images(shape: tuple[int, ...], seed: int) -> Tensor:
    """Draws float32 images, uniform on [0, 1)."""
    return torch.from_numpy(np.random.RandomState(seed).random_sample(shape).astype(np.float32))


@dataclass(frozen=True)
class Golden:
    """What a reference network said: its output, and all that is needed to ask another one the same.

    Args:
        shapes: key -> shape of the reference's state dict, less the buffers that are no weights.
        c_noise: (b,) its second argument.
        output: (b, c, h, w), float32, computed in float64.
        seed: of the weights; the images are drawn with seed + 1.
    """

    shapes: dict[str, tuple[int, ...]]
    c_noise: tuple[float, ...]
    output: Tensor
    seed: int = 0

    def state(self) -> dict[str, Tensor]:
        return random_state(self.shapes, self.seed)

    def images(self) -> Tensor:
        return random_images(tuple(self.output.shape), self.seed + 1)


def save_goldens(path: Path, goldens: Mapping[str, Golden]) -> None:
    """Writes goldens as one safetensors file: outputs as tensors, the rest as JSON in its metadata."""
    rest = {name: {"shapes": g.shapes, "c_noise": g.c_noise, "seed": g.seed} for name, g in goldens.items()}
    metadata = {"goldens": json.dumps(rest, separators=(",", ":"))}  # one entry: the order of several would change from run to run
    save_file({name: g.output.float().contiguous() for name, g in goldens.items()}, path, metadata)
    path.chmod(0o644)


def load_goldens(path: Path) -> dict[str, Golden]:
    """Reads what save_goldens wrote."""
    goldens = {}
    with safe_open(path, "pt") as file:
        for name, rest in json.loads(file.metadata()["goldens"]).items():
            shapes = {key: tuple(shape) for key, shape in rest["shapes"].items()}
            goldens[name] = Golden(shapes, tuple(rest["c_noise"]), file.get_tensor(name), rest["seed"])
    return goldens
