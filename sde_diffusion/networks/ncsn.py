"""The score networks of Song & Ermon: NCSN (2019) and NCSNv2 (2020), RefineNets out of the blocks of refinenet.py.

    x in [0, 1] -> 2x - 1 -> begin_conv
    stages: two residual blocks each; the first of every stage but the first halves the grid by a 2x2 mean, or is dilated instead
    refine: from the last stage to the first, each a RefineBlock of [what the stage gave, what the coarser one was refined to]
    normalizer -> elu -> end_conv

Channels (in units of width) and dilation of the stages, by depth, and the images that the authors' code uses it for:

    4: 1, 2, 2 dilated 2, 2 dilated 4                  32 and 64 pixels (NCSN always)
    5: 1, 2, 2, 4 dilated 2, 4 dilated 4               96 to 128 pixels
    6: 1, 2, 2, 2, 4 dilated 2, 4 dilated 4            256 pixels

NCSN learns the noise level through its norms, one row of each for each level.  NCSNv2 is told nothing: its score is this output
divided by sigma.  That division is the business of whoever calls (F = sigma score, the Score parameterization), not of the network.
Song & Ermon 2019 is arXiv:1907.05600, Song & Ermon 2020 is arXiv:2006.09011.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import elu

from sde_diffusion.networks.refinenet import (
    ConditionalInstanceNormPlus,
    InstanceNormPlus,
    NoNorm,
    Norm,
    Pool,
    RefineBlock,
    ResidualBlock,
    max5,
    mean5,
)


class _Stage(NamedTuple):
    res: str  # name of its two residual blocks, as in the authors' checkpoints
    refine: str  # name of its refine block, likewise
    multiplier: int  # channels in units of width
    dilation: int  # 1: halves the grid (the first stage does not)


STAGES = {  # depth -> stages, the finest first
    4: (_Stage("res1", "refine4", 1, 1), _Stage("res2", "refine3", 2, 1), _Stage("res3", "refine2", 2, 2), _Stage("res4", "refine1", 2, 4)),
    5: (
        _Stage("res1", "refine5", 1, 1),
        _Stage("res2", "refine4", 2, 1),
        _Stage("res3", "refine3", 2, 1),
        _Stage("res4", "refine2", 4, 2),
        _Stage("res5", "refine1", 4, 4),
    ),
    6: (
        _Stage("res1", "refine5", 1, 1),
        _Stage("res2", "refine4", 2, 1),
        _Stage("res3", "refine3", 2, 1),
        _Stage("res31", "refine31", 2, 1),
        _Stage("res4", "refine2", 4, 2),
        _Stage("res5", "refine1", 4, 4),
    ),
}


class _RefineNet(nn.Module):
    """The diagram above with the norms and the pooling that it is given: norm in the residual blocks, refine_norm in the refine blocks."""

    def __init__(self, channels: int, width: int, depth: int, centered: bool, norm: Norm, refine_norm: Norm, pool: Pool) -> None:
        super().__init__()
        if depth not in STAGES:
            raise ValueError(f"depth must be 4 (32 and 64 pixels), 5 (128) or 6 (256), got {depth}")
        if width < 2:
            raise ValueError(f"width must be at least 2 (InstanceNorm++ divides by a deviation over channels), got {width}; take 128")
        self.channels, self.centered, self.stages = channels, centered, STAGES[depth]
        self.stride = 2 ** sum(stage.dilation == 1 for stage in self.stages[1:])
        self.begin_conv = nn.Conv2d(channels, width, 3, padding=1)
        finer = width
        for i, stage in enumerate(self.stages):
            here, coarsest = width * stage.multiplier, stage is self.stages[-1]
            first = ResidualBlock(finer, here, norm, down=i > 0, dilation=stage.dilation)
            self.add_module(stage.res, nn.ModuleList((first, ResidualBlock(here, here, norm, dilation=stage.dilation))))
            self.add_module(stage.refine, RefineBlock((here,) if coarsest else (here, here), finer, refine_norm, pool, last=i == 0))
            finer = here
        self.normalizer = norm(width)
        self.end_conv = nn.Conv2d(width, channels, 3, padding=1)

    def _refined(self, x: Tensor, level: Tensor, cond: Tensor | None) -> Tensor:
        k = self.stride  # a grid of one pixel has no deviation to normalise by
        if x.ndim != 4 or x.shape[1] != self.channels or x.shape[2] % k or x.shape[3] % k or tuple(x.shape[2:]) == (k, k):
            raise ValueError(
                f"this {type(self).__name__} takes images (b, {self.channels}, h, w) with h and w divisible by {k} and not both {k}, got"
                f" {tuple(x.shape)}; set its channels to match, and resize or pad the images"
            )
        if cond is not None:
            raise ValueError(f"cond was given, but {type(self).__name__} has no classes; leave cond=None, or use a UNet with classes")
        h = self.begin_conv(x if self.centered else 2 * x - 1)
        kept = []
        for stage in self.stages:
            for block in self.get_submodule(stage.res).children():
                h = block(h, level)
            kept.append(h)
        h = self.get_submodule(self.stages[-1].refine)((kept.pop(),), level)
        for stage in reversed(self.stages[:-1]):
            h = self.get_submodule(stage.refine)((kept.pop(), h), level)
        return self.end_conv(elu(self.normalizer(h, level)))


class NCSN(_RefineNet):
    """The noise-conditional score network of Song & Ermon (2019): F(x, c_noise), c_noise the index of the noise level.

    It predicts the score itself, not sigma times it (the PlainScore parameterization).  InstanceNorm++ has a row per level and
    is everywhere; the pooling is a 5x5 mean.

    Args:
        channels: of the image.
        width: channels of the first stage, at least 2.
        levels: number of noise levels.
        centered: images are in [-1, 1]; False: in [0, 1], and mapped to [-1, 1] by the network.

    Attributes:
        expression: what builds this network again, untrained.

    Raises:
        ValueError: for a width below 2; when called with images of other channels or of odd sides or of 2x2 pixels, with a cond, and (on
            the CPU, where the check costs no synchronisation) with c_noise that does not round to an index in 0 .. levels - 1.
    """

    def __init__(self, channels: int = 3, width: int = 128, levels: int = 10, *, centered: bool = False) -> None:
        norm = partial(ConditionalInstanceNormPlus, levels=levels)
        super().__init__(channels, width, 4, centered, norm, norm, mean5)
        self.levels = levels
        self.expression = f"NCSN(channels={channels}, width={width}, levels={levels}, centered={centered})"

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        """F(x, c_noise), in the shape of x.

        Args:
            x: (b, channels, h, w), h and w even.
            c_noise: (b,) index of the noise level, 0 for the largest sigma; rounded.
            cond: must be None.
        """
        level = c_noise.round().long()
        checked = level.device.type == "cpu" and not torch.compiler.is_compiling()
        if checked and bool(((level < 0) | (level >= self.levels)).any()):
            raise ValueError(
                f"c_noise must be the index of a noise level, 0 (largest sigma) .. {self.levels - 1}, got {c_noise.tolist()};"
                f" let the caller number its levels so (for a denoiser: conditioning=TimeLabel(-{self.levels}, {self.levels}))"
            )
        return self._refined(x, level, cond)


class NCSNv2(_RefineNet):
    """The score network of Song & Ermon (2020), the same for every noise level: F(x), with sigma score = F.

    It ignores c_noise: its only conditioning is the division of F by sigma, which the Score parameterization does.  InstanceNorm++ is in
    the residual blocks only, and the pooling is a 5x5 maximum.

    Args:
        channels: of the image.
        width: channels of the first stage, at least 2.
        depth: number of stages: 4 for images of 32 and 64 pixels, 5 for 96 to 128, 6 for 256.
        centered: images are in [-1, 1]; False: in [0, 1], and mapped to [-1, 1] by the network.

    Attributes:
        expression: what builds this network again, untrained.

    Raises:
        ValueError: for another width or depth; when called with images of other channels or with sides that cannot be halved
            depth - 3 times or are then both 1, and with a cond.
    """

    def __init__(self, channels: int = 3, width: int = 128, *, depth: int = 4, centered: bool = False) -> None:
        super().__init__(channels, width, depth, centered, InstanceNormPlus, NoNorm, max5)
        self.expression = f"NCSNv2(channels={channels}, width={width}, depth={depth}, centered={centered})"

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        """F(x), in the shape of x.

        Args:
            x: (b, channels, h, w), h and w divisible by 2^(depth - 3).
            c_noise: ignored.
            cond: must be None.
        """
        return self._refined(x, c_noise, cond)


def ncsn_cifar10() -> NCSN:
    """The network of Song & Ermon (2019) for CIFAR-10: 10 levels from sigma 1 to 0.01, 30,117,635 parameters."""
    return NCSN(channels=3, width=128, levels=10)


def ncsnv2_cifar10() -> NCSNv2:
    """The network of Song & Ermon (2020) for CIFAR-10: made for 232 levels from sigma 50 to 0.01, 29,694,083 parameters."""
    return NCSNv2(channels=3, width=128, depth=4)
