"""Training: configurations, data, the loop, averaged weights and checkpoints."""

from sde_diffusion.training.checkpoint import Checkpoint, load_denoiser, open_checkpoint
from sde_diffusion.training.config import default_config
from sde_diffusion.training.ema import Averages
from sde_diffusion.training.experiment import Experiment
from sde_diffusion.training.loop import fit, train
from sde_diffusion.training.memory import keep_freed_memory
from sde_diffusion.training.run import Run, prepare
from sde_diffusion.training.tracking import LOG

__all__ = [
    "LOG",
    "Averages",
    "Checkpoint",
    "Experiment",
    "Run",
    "default_config",
    "fit",
    "keep_freed_memory",
    "load_denoiser",
    "open_checkpoint",
    "prepare",
    "train",
]
