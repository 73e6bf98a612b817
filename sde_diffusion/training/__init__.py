"""Training: configurations, data, the loop, averaged weights and checkpoints."""

from sde_diffusion.training.checkpoint import Checkpoint, load_denoiser, open_checkpoint
from sde_diffusion.training.config import default_config
from sde_diffusion.training.data import Dataset, load
from sde_diffusion.training.ema import EMA
from sde_diffusion.training.loop import LOG, fit, prepare, train

__all__ = [
    "EMA",
    "LOG",
    "Checkpoint",
    "Dataset",
    "default_config",
    "fit",
    "load",
    "load_denoiser",
    "open_checkpoint",
    "prepare",
    "train",
]
