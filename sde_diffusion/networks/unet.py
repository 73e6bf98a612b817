"""A small U-Net for images, after DDPM++ (Ho et al. 2020, Song et al. 2021), light enough to train on a laptop.

    down: per level, `blocks` residual blocks, then a 2x2 mean              (kept: the output of every block)
    middle: one residual block
    up:   per level, `blocks` residual blocks on [h, kept], then nearest-neighbour doubling
    residual block:  x -> (skip(x) + conv(silu(FiLM(norm(conv(silu(norm(x)))); e)))) / sqrt(2)                              (1)

with FiLM as in embeddings.py (2).  Second convolutions of the blocks and the output start at zero, so that an
untrained network predicts F = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, scaled_dot_product_attention, silu

from sde_diffusion.networks.embeddings import NoiseEmbedding

GROUP = 8  # channels per normalisation group; DDPM has 4 at 128 channels, fewer groups are quicker on a CPU
HEAD = 32  # channels per attention head, at most


def _zero(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // GROUP), channels)


class _Block(nn.Module):
    """The residual block (1), optionally followed by self-attention over the pixels."""

    def __init__(self, inputs: int, outputs: int, embedding: int, *, attention: bool) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * outputs)
        self.norm2, self.conv2 = _norm(outputs), _zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.attention = _Attention(outputs) if attention else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.film(e)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(torch.addcmul(shift, self.norm2(h), 1 + scale)))
        return self.attention((self.skip(x) + h) * math.sqrt(0.5))


class _Attention(nn.Module):
    """x -> (x + W softmax(q k^T / sqrt(d)) v) / sqrt(2), over all pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD)
        self.norm, self.qkv = _norm(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, height * width).transpose(3, 4)
        h = scaled_dot_product_attention(*qkv.unbind(1)).transpose(2, 3).reshape(b, c, height, width)
        return (x + self.out(h)) * math.sqrt(0.5)


class UNet(nn.Module):
    """A noise-conditional U-Net F(x, c_noise, cond) for images (b, channels, h, w).

    Args:
        channels: of the image.
        width: channels of the first level, a multiple of 8; the embedding has 4 width channels.
        multipliers: channels of each level in units of width; h and w must be divisible by 2^(levels - 1).
        blocks: residual blocks per level on the way down, and on the way up.
        attention: levels (0 is the finest) whose blocks end with self-attention.
        classes: number of class labels, 0 for none (see NoiseEmbedding).

    Raises:
        ValueError: for another width, and when called with images of other channels or with sides that cannot be halved often enough.
    """

    def __init__(
        self,
        channels: int = 1,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        attention: Sequence[int] = (),
        classes: int = 0,
    ) -> None:
        super().__init__()
        if width % GROUP:
            raise ValueError(f"width must be a multiple of {GROUP} (the normalisation groups), got {width}")
        self.channels, self.levels, self.blocks = channels, len(multipliers), blocks
        embedding = 4 * width
        self.embed = NoiseEmbedding(embedding, classes=classes)
        self.first = nn.Conv2d(channels, width, 3, padding=1)

        def block(inputs: int, outputs: int, level: int) -> _Block:
            return _Block(inputs, outputs, embedding, attention=level in attention)

        here, kept = width, []
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                self.down.append(block(here, width * multiplier, level))
                here = width * multiplier
                kept.append(here)
        self.middle = block(here, here, self.levels - 1)
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks):
                self.up.append(block(here + kept.pop(), width * multiplier, level))
                here = width * multiplier
        self.norm, self.last = _norm(here), _zero(nn.Conv2d(here, channels, 3, padding=1))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        side = 2 ** (self.levels - 1)
        if x.ndim != 4 or x.shape[1] != self.channels or x.shape[2] % side or x.shape[3] % side:
            raise ValueError(
                f"this UNet takes images (b, {self.channels}, h, w) with h and w divisible by {side}, got"
                f" {tuple(x.shape)}; set its channels and multipliers to match, or use MLP(dim=...) for points"
            )
        e = self.embed(c_noise, cond)
        h, kept = self.first(x), []
        for i, block in enumerate(self.down):
            if i and i % self.blocks == 0:
                h = avg_pool2d(h, 2)
            h = block(h, e)
            kept.append(h)
        h = self.middle(h, e)
        for i, block in enumerate(self.up):
            if i and i % self.blocks == 0:
                h = interpolate(h, scale_factor=2, mode="nearest")
            h = block(torch.cat((h, kept.pop()), dim=1), e)
        return self.last(silu(self.norm(h)))
