"""Hugging Face diffusers: its models as our denoisers, our solvers as its schedulers."""

from typing import Any

from sde_diffusion.interop.diffusers.pipelines import DiffusersNetwork, from_diffusers
from sde_diffusion.interop.diffusers.schedules import Schedule, read_schedule
from sde_diffusion.interop.diffusers.unet2d import to_diffusers

__all__ = ["DiffusersNetwork", "Schedule", "TableauScheduler", "from_diffusers", "read_schedule", "to_diffusers"]


def __getattr__(name: str) -> Any:
    if name != "TableauScheduler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sde_diffusion.interop.diffusers.scheduler import TableauScheduler  # a subclass of diffusers' own classes

    return TableauScheduler
