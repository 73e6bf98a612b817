"""What a run is made of, as one flat ml_collections.ConfigDict; objects are expressions for `sde_diffusion.build`."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

VERSION = 2
"""Of the fields below; 1 had one average and no accelerate."""

FREE = [
    "steps",
    "checkpoint_every",
    "keep",
    "keep_every",
    "log_every",
    "sample_every",
    "trackers",
    "workers",
    "accumulate",
    "compile",
    "channels_last",
    "tf32",
]  # fmt: skip
"""Fields that a resumed run may change: they say how far, how often and how quickly, never where the weights go."""

CHOICES = {
    "optimizer": ("adam", "adamw"),
    "schedule": ("constant", "cosine", "inverse_sqrt"),
    "precision": ("float32", "bfloat16", "float16"),
}
POSITIVE = ("batch_size", "accumulate", "steps", "lr", "eps", "clip", "checkpoint_every", "keep", "log_every")
NOT_NEGATIVE = ("weight_decay", "label_dropout", "warmup", "seed", "workers", "keep_every", "sample_every", "snapshot_every")


def default_config() -> ConfigDict:
    """A VP run on the digits, three minutes on two CPU cores."""
    return ConfigDict(
        {
            "version": VERSION,
            # the model
            "sde": "VPSDE()",
            "parameterization": "V()",  # EDM(sigma_data) takes the standard deviation of the data
            "conditioning": "LogNoise()",  # what the network is told of the noise
            "network": "UNet(UNetConfig(channels=1, width=32, multipliers=(1, 2)))",
            "loss": "DenoisingScoreMatching()",
            # the data
            "data": "digits",  # a name, a file, a folder of images, or an expression (docs/data.md)
            "conditional": False,  # whether the network is told the class
            "label_dropout": 0.0,  # chance that it is told the null class instead, for guidance
            "batch_size": 128,  # samples per update, over all processes and accumulated parts
            "workers": 0,  # processes that load data, per training process
            # the optimiser
            "steps": 2500,
            "optimizer": "adam",  # or adamw
            "lr": 1e-3,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0.0,
            "schedule": "constant",  # or cosine, inverse_sqrt
            "warmup": 200,  # steps over which lr rises linearly
            "clip": 1.0,  # largest norm of the gradient (Song et al. 2021)
            "accumulate": 1,  # parts of a batch that go through the network one after the other
            "ema": (0.999,),  # decays of averages of the weights; the first is sampled from
            "ema_power": (),  # widths of EDM2's averages, such as (0.05, 0.1)
            "snapshot_every": 0,  # steps between snapshots of those, for any width afterwards; 0: none
            "seed": 0,  # of the initial weights, the order of the data, times and noise
            # how it runs
            "precision": "float32",  # or bfloat16, float16: of the network under autocast
            "compile": False,
            "channels_last": False,
            "tf32": False,
            # what is written
            "checkpoint_every": 1000,
            "keep": 3,  # newest checkpoints
            "keep_every": 0,  # and those of the multiples of so many steps
            "log_every": 50,
            "sample_every": 0,  # steps between pictures of samples; 0: none
            "trackers": (),  # beside log.jsonl: "tensorboard", "wandb"
        }
    )


def check(config: ConfigDict) -> None:
    """Raises ValueError for fields that are missing, unknown or out of range."""
    if config.get("version", 1) != VERSION:
        raise ValueError(f"the configuration is of version {config.get('version', 1)}, this package reads version {VERSION};"
                         " start from sde_diffusion.training.default_config(), or run the version of it that wrote this one")  # fmt: skip
    expected, given = set(default_config()), set(config)
    if expected != given:
        raise ValueError(f"the configuration lacks {sorted(expected - given)} and does not know {sorted(given - expected)};"
                         " start from sde_diffusion.training.default_config()")  # fmt: skip
    for field in POSITIVE:
        if not config[field] > 0:
            raise ValueError(f"config.{field} must be positive, got {config[field]}; the default is {default_config()[field]}")
    for field in NOT_NEGATIVE:
        if not config[field] >= 0:
            raise ValueError(f"config.{field} must not be negative, got {config[field]}; the default is {default_config()[field]}")
    for field, choices in CHOICES.items():
        if config[field] not in choices:
            raise ValueError(f"config.{field} must be one of {', '.join(choices)}, got {config[field]!r}")
    if not config.ema:
        raise ValueError("config.ema must name at least one decay, got (); the default is (0.999,)")
    if config.snapshot_every and not config.ema_power:
        raise ValueError("config.snapshot_every stores power-function averages, and config.ema_power names none; set it to (0.05, 0.1)")
    if config.label_dropout > 1 or (config.label_dropout and not config.conditional):
        raise ValueError(f"config.label_dropout is the chance in [0, 1] that the class of a conditional model is left out, got"
                         f" {config.label_dropout} with conditional={config.conditional}")  # fmt: skip


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The fields that a resumed run may not change and that differ, as lines `field: old -> new`."""
    free = set(FREE) - ({"steps"} if new.get("schedule") == "cosine" else set())  # which ends where the run does
    fields = sorted((old.keys() | new.keys()) - free)
    old, new = ({field: list(v) if isinstance(v, tuple) else v for field, v in c.items()} for c in (old, new))  # JSON has no tuples
    return [f"{field}: {old.get(field)!r} -> {new.get(field)!r}" for field in fields if old.get(field) != new.get(field)]
