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

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint

from sde_diffusion.networks.blocks import Down, Join, ResidualBlock, Up, convolution, norm, scaled_sum, zero
from sde_diffusion.networks.embeddings import Features, FourierFeatures, NoiseEmbedding, PositionalFeatures, RandomFourierFeatures
from sde_diffusion.networks.unet_config import UNetConfig


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
        mode, self.scale = config.progressive_output, config.sum_scale
        self.blocks = nn.ModuleList()
        number = config.blocks if config.slim else config.blocks + 1
        for i in range(number):
            attends = attention and (config.attention_up == "each" or i == number - 1)
            self.blocks.append(ResidualBlock(config, inputs + kept.pop(), outputs, attention=attends))
            inputs = outputs
        self.norm = self.conv = self.pyramid = self.resample = None
        coarsest = level == len(config.multipliers) - 1
        self.pyramid_channels = config.outputs if mode == "skip" else outputs
        if mode == "skip" or (mode == "residual" and coarsest):
            last = convolution(config, outputs, self.pyramid_channels)
            self.norm, self.conv = norm(config, outputs), zero(last) if mode == "skip" else last
        if mode != "none" and not coarsest:
            self.pyramid = Up(config, pyramid, self.pyramid_channels, conv=mode == "residual")
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
    features: Features
    match config.embedding:
        case "octaves":
            features = FourierFeatures(config.embedding_width)
        case "fourier":
            features = RandomFourierFeatures(2 * config.width, scale=config.fourier_scale)
        case kind:
            features = PositionalFeatures(config.width, sine_first=kind == "ddpm")
    return NoiseEmbedding(config.embedding_width, features=features, classes=config.classes)


def _run(block: nn.Module, h: Tensor, e: Tensor) -> Tensor:
    return block(h, e)


def _recomputed(block: nn.Module, h: Tensor, e: Tensor) -> Tensor:
    return checkpoint(block, h, e, use_reentrant=False)
