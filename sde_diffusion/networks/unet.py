"""The U-Net of diffusion models, one implementation for its published forms (Ho et al. 2020, Song et al. 2021, Nichol & Dhariwal 2021,
Dhariwal & Nichol 2021, Karras et al. 2022).

    e:      c_noise -> sines and cosines -> perceptron (+ class embedding) -> silu
    first:  a convolution, kept
    down:   per level, halve (not the finest), then `blocks` residual blocks                    (kept: every output)
    middle: residual block, attention, residual block
    up:     per level, `blocks` + 1 residual blocks on [h, last kept], then double (not the finest)
    last:   norm, silu, a convolution

`slim` keeps the outputs of residual blocks only: as many blocks up as down, one in the middle, light enough to train on a laptop.

Progressive growing (NCSN++): on the way down, the input itself is halved and either joins h through a 1x1 convolution ("skip"), or grows
by a strided convolution and h becomes their sum ("residual"); on the way up, every level adds a convolution of h to the output, which is
doubled from level to level ("skip"), or a second path of features is doubled and h becomes their sum ("residual").

blocks.py has the blocks. Second convolutions of the blocks, attention and the output start at zero, so that an untrained network predicts
F = 0.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint

from sde_diffusion.networks.blocks import Down, Join, ResidualBlock, Up, convolution, norm, scaled_sum, zero
from sde_diffusion.networks.embeddings import FourierFeatures, NoiseEmbedding, PositionalFeatures, RandomFourierFeatures

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
        slim: see above.
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


class _DownLevel(nn.Module):
    """Halves, joins the halved input where it grows progressively, and runs the residual blocks of a level."""

    def __init__(self, config: UNetConfig, level: int, inputs: int, pyramid: int) -> None:
        super().__init__()
        outputs, attention = config.width * config.multipliers[level], level in config.attention
        self.slim, self.scale, mode = config.slim, config.sum_scale, config.progressive_input
        self.resample = self.pyramid = self.join = None
        kept, self.pyramid_channels = [], pyramid
        if level:
            self.resample = (
                ResidualBlock(config, inputs, inputs, resample="down")
                if config.block == "biggan"
                else Down(config, inputs, inputs, conv=config.resample_conv)
            )
            if mode == "skip":
                self.pyramid, self.join = Down(config, pyramid, pyramid, conv=False), Join(config, pyramid, inputs)
                inputs *= 2 if config.combine == "cat" else 1
            elif mode == "residual":
                self.pyramid, self.pyramid_channels = Down(config, pyramid, inputs, conv=True), inputs
            kept += [] if config.slim else [inputs]
        self.blocks = nn.ModuleList()
        for _ in range(config.blocks):
            self.blocks.append(ResidualBlock(config, inputs, outputs, attention=attention))
            inputs = outputs
            kept.append(outputs)
        self.kept_channels = kept

    def forward(self, h: Tensor, pyramid: Tensor, e: Tensor, run: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
        kept = []
        if self.resample is not None:
            h = run(self.resample, h, e)
            if self.pyramid is not None:
                pyramid = self.pyramid(pyramid)
                if self.join is None:
                    h = pyramid = scaled_sum(pyramid, h, self.scale)
                else:
                    h = self.join(pyramid, h)
            if not self.slim:
                kept.append(h)
        for block in self.blocks:
            h = run(block, h, e)
            kept.append(h)
        return h, pyramid, kept


class _UpLevel(nn.Module):
    """Runs the residual blocks of a level on what was kept, contributes to a progressive output, and doubles."""

    def __init__(self, config: UNetConfig, level: int, inputs: int, kept: list[int], pyramid: int) -> None:
        super().__init__()
        outputs, attention = config.width * config.multipliers[level], level in config.attention
        self.mode, self.scale = config.progressive_output, config.sum_scale
        self.blocks = nn.ModuleList()
        number = config.blocks if config.slim else config.blocks + 1
        for i in range(number):
            attends = attention and (config.attention_up == "each" or i == number - 1)
            self.blocks.append(ResidualBlock(config, inputs + kept.pop(), outputs, attention=attends))
            inputs = outputs
        self.norm = self.conv = self.pyramid = self.resample = None
        coarsest = level == len(config.multipliers) - 1
        self.pyramid_channels = pyramid
        if self.mode == "skip" or (self.mode == "residual" and coarsest):
            self.pyramid_channels = config.outputs if self.mode == "skip" else outputs
            last = convolution(config, outputs, self.pyramid_channels)
            self.norm, self.conv = norm(config, outputs), zero(last) if self.mode == "skip" else last
        if self.mode != "none" and not coarsest:
            self.pyramid = Up(config, pyramid, pyramid if self.mode == "skip" else outputs, conv=self.mode == "residual")
            self.pyramid_channels = pyramid if self.mode == "skip" else outputs
        if level:
            self.resample = (
                ResidualBlock(config, outputs, outputs, resample="up")
                if config.block == "biggan"
                else Up(config, outputs, outputs, conv=config.resample_conv)
            )
        self.output_channels = outputs

    def forward(self, h: Tensor, pyramid: Tensor | None, e: Tensor, kept: list[Tensor], run: Any) -> tuple[Tensor, Tensor | None]:
        for block in self.blocks:
            h = run(block, torch.cat((h, kept.pop()), dim=1), e)
        grown = None if self.pyramid is None else self.pyramid(pyramid)
        if self.norm is not None and self.conv is not None:
            part = self.conv(silu(self.norm(h)))
            pyramid = part if grown is None else grown + part
        elif grown is not None:
            h = pyramid = scaled_sum(grown, h, self.scale)
        return h if self.resample is None else run(self.resample, h, e), pyramid


class UNet(nn.Module):
    """A noise-conditional U-Net F(x, c_noise, cond) for data (b, channels, *sides).

    Args:
        config: what it is made of.

    Attributes:
        expression: what builds this network again, untrained.

    Raises:
        ValueError: when called with data of other channels or with sides that cannot be halved often enough.
    """

    def __init__(self, config: UNetConfig = UNetConfig()) -> None:
        super().__init__()
        self.config = config
        self.expression = f"UNet({config!r})"
        self.embed = _embedding(config)
        self.first = convolution(config, config.channels, config.width)
        levels = range(len(config.multipliers))
        here, pyramid, kept = config.width, config.channels, [] if config.slim else [config.width]
        self.down, self.middle, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level in levels:
            down = _DownLevel(config, level, here, pyramid)
            self.down.append(down)
            kept += down.kept_channels
            here, pyramid = kept[-1], down.pyramid_channels
        if config.slim:
            self.middle.append(ResidualBlock(config, here, here, attention=levels[-1] in config.attention))
        else:
            self.middle.append(ResidualBlock(config, here, here, attention=True))
            self.middle.append(ResidualBlock(config, here, here))
        pyramid = 0
        for level in reversed(levels):
            up = _UpLevel(config, level, here, kept, pyramid)
            self.up.append(up)
            here, pyramid = up.output_channels, up.pyramid_channels
        self.norm = self.last = None
        if config.progressive_output != "skip":
            self.norm, self.last = norm(config, here), zero(convolution(config, here, config.outputs))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        self._check(x)
        run = _recomputed if self.config.checkpointing and torch.is_grad_enabled() else _run
        e = self.embed(c_noise, cond)
        x = 2 * x - 1 if self.config.recentre else x
        h, pyramid = self.first(x), x
        kept = [] if self.config.slim else [h]
        for down in self.down:
            h, pyramid, outputs = down(h, pyramid, e, run)
            kept += outputs
        for block in self.middle:
            h = run(block, h, e)
        output: Any = None
        for up in self.up:
            h, output = up(h, output, e, kept, run)
        if self.norm is not None and self.last is not None:
            output = self.last(silu(self.norm(h)))
        return output

    def _check(self, x: Tensor) -> None:
        config = self.config
        side = 2 ** (len(config.multipliers) - 1)
        if x.ndim != config.dims + 2 or x.shape[1] != config.channels or any(n % side for n in x.shape[2:]):
            kind, sides = (("signals", "l"), ("images", "h, w"), ("volumes", "d, h, w"))[config.dims - 1]
            raise ValueError(
                f"this UNet takes {kind} (b, {config.channels}, {sides}) with sides divisible by {side}, got {tuple(x.shape)};"
                " set its channels, dims and multipliers to match, or use MLP(dim=...) for points"
            )


def _embedding(config: UNetConfig) -> NoiseEmbedding:
    width = config.width
    features: nn.Module
    match config.embedding:
        case "octaves":
            features, channels = FourierFeatures(config.embedding_width), config.embedding_width
        case "fourier":
            features, channels = RandomFourierFeatures(2 * width, scale=config.fourier_scale), 2 * width
        case kind:
            features, channels = PositionalFeatures(width, sine_first=kind == "ddpm"), width
    return NoiseEmbedding(config.embedding_width, features=features, channels=channels, classes=config.classes)


def _run(block: nn.Module, h: Tensor, e: Tensor) -> Tensor:
    return block(h, e)


def _recomputed(block: nn.Module, h: Tensor, e: Tensor) -> Tensor:
    return checkpoint(block, h, e, use_reentrant=False)
