"""What a run is made of, as one flat ml_collections.ConfigDict; objects are expressions for `sde_diffusion.build`."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

FREE = ("steps", "checkpoint_every", "keep", "log_every")
"""Fields that a resumed run may change: they say how far and how often, never where the weights go."""


def default_config() -> ConfigDict:
    """A VP run on the digits, three minutes on two CPU cores."""
    return ConfigDict(
        {
            "sde": "VPSDE()",
            "parameterization": "V()",
            "conditioning": "LogNoise()",  # what the network is told of the noise
            "network": "UNet(UNetConfig(channels=1, width=32, multipliers=(1, 2)))",
            "loss": "DenoisingScoreMatching()",
            "data": "digits",  # or moons, ring, checkerboard, or the path of a .npy, .npz or .pt file
            "batch_size": 128,
            "steps": 2500,
            "lr": 1e-3,  # of Adam
            "warmup": 200,  # steps over which lr rises linearly
            "clip": 1.0,  # largest norm of the gradient (Song et al. 2021)
            "ema": 0.999,  # decay of the averaged weights (training/ema.py)
            "seed": 0,  # of the initial weights, the order of the data, times and noise
            "checkpoint_every": 1000,
            "keep": 3,  # checkpoints
            "log_every": 50,
        }
    )


def check(config: ConfigDict) -> None:
    """Raises ValueError for fields that are missing, unknown or out of range."""
    expected, given = set(default_config()), set(config)
    if expected != given:
        raise ValueError(f"the configuration lacks {sorted(expected - given)} and does not know {sorted(given - expected)};"
                         " start from sde_diffusion.training.default_config()")  # fmt: skip
    for field in ("batch_size", "steps", "lr", "clip", "checkpoint_every", "keep", "log_every"):
        if not config[field] > 0:
            raise ValueError(f"config.{field} must be positive, got {config[field]}; the default is {default_config()[field]}")
    if config.warmup < 0 or config.seed < 0:
        raise ValueError(f"config.warmup and config.seed must not be negative, got {config.warmup} and {config.seed}")


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The fields that a resumed run may not change and that differ, as lines `field: old -> new`."""
    fields = sorted((old.keys() | new.keys()) - set(FREE))
    return [f"{field}: {old.get(field)!r} -> {new.get(field)!r}" for field in fields if old.get(field) != new.get(field)]
