"""What a U-Net is made of: one dataclass, whose expression names the network in configurations and checkpoints."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

_CHOICES = {
    "embedding": ("octaves", "ddpm", "adm", "fourier"),
    "block": ("ddpm", "biggan"),
    "attention_up": ("each", "last"),
    "downsample_padding": ("after", "both"),
    "progressive_input": ("none", "skip", "residual"),
    "progressive_output": ("none", "skip", "residual"),
    "combine": ("sum", "cat"),
    "initialisation": ("torch", "xavier"),
    "dims": (1, 2, 3),
}


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """What a U-Net is made of; published.py has the papers' choices.

    Args:
        channels: of the data, >= 1.
        width: channels of the first level, even.
        multipliers: channels of each level in units of width; sides must be divisible by 2^(levels - 1).
        blocks: residual blocks per level on the way down.
        dims: number of sides of the data: 1 signals, 2 images, 3 volumes.
        slim: the light form of unet.py: as many blocks up as down, one in the middle, and only the outputs of blocks are kept.
        attention: levels (0 is the finest) whose blocks end with self-attention.
        attention_up: whether "each" block of such a level attends on the way up (DDPM with `ddpm` checkpoints of diffusers, ADM) or the
            "last" (score_sde).
        heads: of the attention.
        head_channels: channels per head, at most; 0 to go by `heads`.
        embedding: "octaves" of log(sigma/alpha)/4 (FourierFeatures), steps as in "ddpm" or "adm" (PositionalFeatures), or random "fourier"
            frequencies (RandomFourierFeatures).
        fourier_scale: of the random frequencies.
        classes: number of class labels, 0 for none; index `classes` is the null class, which is what cond=None means.
        film: FiLM after the second norm (improved DDPM, ADM) instead of a shift before it.
        block: "ddpm" resamples between residual blocks, "biggan" in residual blocks of their own.
        project_resampled: whether a resampling block has a 1x1 convolution in its skip path (NCSN++) even if channels stay.
        resample_conv: whether resampling between blocks ends (up) or is done (down) by a convolution.
        downsample_padding: where such a convolution pads: "after" the last pixel (DDPM) or on "both" ends (improved DDPM).
        fir: kernel of the resampling, such as (1, 3, 3, 1) in NCSN++; empty for the box.
        progressive_input: "none", "skip" or "residual".
        progressive_output: "none", "skip" or "residual".
        combine: whether a "skip" input is added ("sum") or concatenated ("cat").
        skip_rescale: whether sums are divided by sqrt(2).
        dropout: probability of dropping a feature before the second convolution of a block, in [0, 1).
        groups: of a normalisation, at most.
        group_channels: channels per group, at least. Fewer groups are quicker on a CPU.
        norm_eps: added to the variance in a normalisation.
        initialisation: PyTorch's own, or "xavier" uniform with biases zero (DDPM's and score_sde's).
        learned_variance: whether the output has 2 channels, the second half for LearnedVariance.
        recentre: whether data in [0, 1] are brought to [-1, 1] first (score_sde's VE models).
        checkpointing: whether blocks recompute their activations in the backward pass: less memory, a third more time.

    Raises:
        ValueError: for what does not fit, with what would.
    """

    channels: int = 1
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    dims: Literal[1, 2, 3] = 2
    slim: bool = True
    attention: tuple[int, ...] = ()
    attention_up: Literal["each", "last"] = "each"
    heads: int = 1
    head_channels: int = 32
    embedding: Literal["octaves", "ddpm", "adm", "fourier"] = "octaves"
    fourier_scale: float = 16.0
    classes: int = 0
    film: bool = True
    block: Literal["ddpm", "biggan"] = "ddpm"
    project_resampled: bool = False
    resample_conv: bool = False
    downsample_padding: Literal["after", "both"] = "after"
    fir: tuple[float, ...] = ()
    progressive_input: Literal["none", "skip", "residual"] = "none"
    progressive_output: Literal["none", "skip", "residual"] = "none"
    combine: Literal["sum", "cat"] = "sum"
    skip_rescale: bool = True
    dropout: float = 0.0
    groups: int = 32
    group_channels: int = 8
    norm_eps: float = 1e-5
    initialisation: Literal["torch", "xavier"] = "torch"
    learned_variance: bool = False
    recentre: bool = False
    checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("multipliers", "attention", "fir"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        for name in ("channels", "width", "blocks", "heads", "groups", "group_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"multipliers must be at least 1, one per level, got {self.multipliers}")
        if not set(self.attention) <= set(range(len(self.multipliers))):
            raise ValueError(
                f"attention names levels 0 (the finest) to {len(self.multipliers) - 1}, got {self.attention};"
                f" resolution 16 of images of 32 is level 1"
            )
        if len(self.fir) % 2 or (self.fir and not sum(self.fir)):
            raise ValueError(f"fir must have an even number of weights of sum other than 0, such as (1, 3, 3, 1), got {self.fir}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        for multiplier in self.multipliers:
            channels = self.width * multiplier
            if (self.attention or not self.slim) and channels % self.heads_at(channels):
                raise ValueError(
                    f"{channels} channels do not divide into {self.heads_at(channels)} heads; set heads or head_channels to fit"
                )
        if self.width % 2 or (self.width < 4 and self.embedding != "octaves"):
            raise ValueError(f"width must be even and at least 4 (sines and cosines of the noise), got {self.width}; round it up")
        if self.slim and (self.progressive_input, self.progressive_output) != ("none", "none"):
            raise ValueError("progressive_input and progressive_output need slim=False")

    @property
    def embedding_width(self) -> int:
        return 4 * self.width

    @property
    def outputs(self) -> int:
        """Channels of the output."""
        return 2 * self.channels if self.learned_variance else self.channels

    @property
    def sum_scale(self) -> float:
        """What the sum of two paths is multiplied by."""
        return math.sqrt(0.5) if self.skip_rescale else 1.0

    def heads_at(self, channels: int) -> int:
        return max(1, channels // self.head_channels) if self.head_channels else self.heads
