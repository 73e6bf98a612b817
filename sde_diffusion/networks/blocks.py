"""The blocks of the U-Nets, for signals (b, c, l), images (b, c, h, w) and volumes (b, c, d, h, w).

    residual block  x -> skip(R x) + conv(drop(silu(modulate(norm(conv(R silu(norm(x)))); e))))                           (1)
    attention       x -> x + W softmax(q k^T / sqrt(d)) v,    (q, k, v) = conv(norm(x)), over all pixels                   (2)

R resamples by 2 in BigGAN's blocks (Brock et al. 2019) and is absent otherwise; `modulate` is FiLM (embeddings.py (2), improved DDPM, ADM),
or adds a shift before the norm (DDPM, NCSN++). Where `skip_rescale` says so, sums are divided by sqrt(2) (Song et al. 2021).

Resampling by 2 is by a box (means, and copies of the nearest) or by a finite impulse response k (Karras et al. 2020), with the same phase:

    down   y_m = sum_j k_j x_{2m + j - (K - 2)/2}          up   y_m = 2 sum_i k_{m + (K - 2)/2 - 2i} x_i,    sum_j k_j = 1          (3)
"""

from __future__ import annotations

import functools
import math
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention, silu

from sde_diffusion.networks.unet_config import UNetConfig

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
_LAYERS: tuple[type[Convolution], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_Layer = TypeVar("_Layer", bound=Convolution | nn.Linear)


def convolution(
    config: UNetConfig, inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, padding: int | None = None
) -> Convolution:
    """A convolution that keeps the size of its input, in the configuration's number of dimensions."""
    padding = kernel // 2 if padding is None else padding
    layer = _LAYERS[config.dims - 1](inputs, outputs, kernel, stride=stride, padding=padding)
    return _initialised(layer, config)


def linear(config: UNetConfig, inputs: int, outputs: int) -> nn.Linear:
    return _initialised(nn.Linear(inputs, outputs), config)


def _initialised(layer: _Layer, config: UNetConfig) -> _Layer:
    if config.initialisation == "xavier":  # DDPM's variance scaling by the mean fan
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return layer


def zero(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def norm(config: UNetConfig, channels: int) -> nn.GroupNorm:
    """GroupNorm with at most `groups` groups of at least `group_channels` channels, equally many in each."""
    most = max(1, min(config.groups, channels // config.group_channels))
    groups = next(n for n in range(most, 0, -1) if channels % n == 0)
    return nn.GroupNorm(groups, channels, eps=config.norm_eps)


def scaled_sum(x: Tensor, y: Tensor, scale: float) -> Tensor:
    total = x + y
    return total if scale == 1 else total.mul_(scale)


class Resample(nn.Module):
    """Halves or doubles every side by (3), or by means and nearest neighbours.

    Args:
        direction: "down" or "up".
        fir: the kernel k, of even length, normalised here; empty for the box.
        dims: number of sides.
    """

    def __init__(self, direction: Literal["down", "up"], fir: tuple[float, ...], dims: int) -> None:
        super().__init__()
        self.direction, self.dims, self.length = direction, dims, len(fir)
        k = torch.tensor(fir) / sum(fir) if fir else torch.empty(0)
        kernel = functools.reduce(lambda a, b: a[..., None] * b, [k] * dims)  # the product of k along each side
        self.register_buffer("kernel", kernel, persistent=False)

    kernel: Tensor

    def forward(self, x: Tensor) -> Tensor:
        up = self.direction == "up"
        if not self.length:
            if up:
                return functional.interpolate(x, scale_factor=2.0, mode="nearest")
            pool = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[self.dims - 1]
            return pool(x, 2)
        return self.filtered(x, stride=2, padding=(self.length - 2) // 2, up=up)

    def filtered(self, x: Tensor, *, stride: int, padding: int, up: bool = False) -> Tensor:
        """Each channel of x convolved with the kernel, or, upwards, what that is the transpose of."""
        convolve, scale = (_TRANSPOSED[self.dims - 1], 2**self.dims) if up else (_CONVOLVE[self.dims - 1], 1)
        weight = (self.kernel * scale).expand(x.shape[1], 1, *self.kernel.shape)
        if x.device.type != "cpu":
            return convolve(x, weight.to(x.dtype), stride=stride, padding=padding, groups=x.shape[1])
        # bfloat16 has no quick kernel for this there: 40 ms against 5 for 64 channels from 16 to 32 pixels
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False):
            return convolve(x.to(wide), weight.to(wide), stride=stride, padding=padding, groups=x.shape[1]).to(x.dtype)


_CONVOLVE = (functional.conv1d, functional.conv2d, functional.conv3d)
_TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)


def doubled(x: Tensor, conv: Convolution) -> Tensor:
    """conv of the nearest-neighbour doubling of x, as one transposed convolution: 16 products per pixel of x instead of 36 in 2-D.

    Of the copies of a pixel that a kernel of 3 meets, those with equal values share the sum of their weights:
    k = (w_0, w_0 + w_1, w_1 + w_2, w_2) along each side.
    """
    k = conv.weight
    for dim in range(2, k.ndim):
        zeros = torch.zeros_like(k.narrow(dim, 0, 1))
        k = torch.cat((k, zeros), dim) + torch.cat((zeros, k), dim)
    k = k.flip(tuple(range(2, k.ndim))).transpose(0, 1)
    return _TRANSPOSED[k.ndim - 3](x, k, conv.bias, stride=2, padding=1)


class Down(nn.Module):
    """Halves every side: (3), or a convolution of stride 2, preceded by the kernel k where there is one.

    DDPM pads a strided convolution after the last pixel only, improved DDPM on both ends.
    """

    def __init__(self, config: UNetConfig, inputs: int, outputs: int, *, conv: bool) -> None:
        super().__init__()
        self.resample = Resample("down", config.fir, config.dims)
        self.conv = None
        if conv:
            padded = not config.fir and config.downsample_padding == "both"
            self.conv = convolution(config, inputs, outputs, stride=2, padding=1 if padded else 0)
        self.after = conv and not config.fir and config.downsample_padding == "after"

    def forward(self, x: Tensor, e: Tensor | None = None) -> Tensor:
        if self.conv is None:
            return self.resample(x)
        dims, length = self.resample.dims, self.resample.length
        if length:  # filtered with stride 1 and a frame of K/2, so that the convolution, of 3, needs no padding
            x = self.resample.filtered(x, stride=1, padding=length // 2)
        elif self.after:
            x = functional.pad(x, (0, 1) * dims)
        return self.conv(x)


class Up(nn.Module):
    """Doubles every side: (3), or nearest neighbours, then, where asked for, a convolution."""

    def __init__(self, config: UNetConfig, inputs: int, outputs: int, *, conv: bool) -> None:
        super().__init__()
        self.resample = Resample("up", config.fir, config.dims)
        self.conv = convolution(config, inputs, outputs) if conv else None

    def forward(self, x: Tensor, e: Tensor | None = None) -> Tensor:
        if self.conv is not None and not self.resample.length:
            return doubled(x, self.conv)
        x = self.resample(x)
        return x if self.conv is None else self.conv(x)


class Join(nn.Module):
    """Joins a progressively halved input to the features by a 1x1 convolution, as a sum or side by side."""

    def __init__(self, config: UNetConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.add = convolution(config, inputs, outputs, 1), config.combine == "sum"

    def forward(self, pyramid: Tensor, h: Tensor) -> Tensor:
        y = self.conv(pyramid)
        return y + h if self.add else torch.cat((y, h), dim=1)


class ResidualBlock(nn.Module):
    """The residual block (1), followed by attention (2) where asked for."""

    def __init__(
        self, config: UNetConfig, inputs: int, outputs: int, *, attention: bool = False, resample: Literal["down", "up"] | None = None
    ) -> None:
        super().__init__()
        self.film_norm, self.scale = config.film, config.sum_scale
        self.norm1, self.conv1 = norm(config, inputs), convolution(config, inputs, outputs)
        self.film = linear(config, config.embedding_width, 2 * outputs if config.film else outputs)
        self.norm2, self.conv2 = norm(config, outputs), zero(convolution(config, outputs, outputs))
        self.dropout = nn.Dropout(config.dropout)
        project = inputs != outputs or (resample is not None and config.project_resampled)
        self.skip = convolution(config, inputs, outputs, 1) if project else nn.Identity()
        self.resample = nn.Identity() if resample is None else Resample(resample, config.fir, config.dims)
        self.doubles = resample == "up" and not config.fir
        self.attention = Attention(config, outputs) if attention else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        film = self.film(e)[(...,) + (None,) * (x.ndim - 2)]
        h = silu(self.norm1(x))
        h = doubled(h, self.conv1) if self.doubles else self.conv1(self.resample(h))
        if self.film_norm:
            scale, shift = film.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + film)
        h = self.conv2(self.dropout(silu(h)))
        x = self.resample(self.skip(x)) if self.doubles else self.skip(self.resample(x))
        return self.attention(scaled_sum(x, h, self.scale))


class Attention(nn.Module):
    """Self-attention over all pixels (2)."""

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        self.heads, self.scale = config.heads_at(channels), config.sum_scale
        self.norm, self.qkv = norm(config, channels), convolution(config, channels, 3 * channels, 1)
        self.out = zero(convolution(config, channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, *sides = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, math.prod(sides))
        qkv = qkv.transpose(3, 4).contiguous()  # only then is attention fused: 78 to 43 ms, both ways, for 256 pixels of 64 channels
        h = attend(*qkv.unbind(1)).transpose(2, 3).reshape(b, c, *sides)
        return scaled_sum(x, self.out(h), self.scale)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, for (b, heads, pixels, d)."""
    if q.device.type == "cpu" and q.dtype is torch.bfloat16 and q.shape[2] <= _PLAIN_PIXELS:
        # fused attention is no faster in bfloat16 than in float32 there: 29 ms, both ways, for 256 pixels of 64 channels; written out, 17
        weights = torch.softmax(q * q.shape[-1] ** -0.5 @ k.transpose(2, 3), dim=-1, dtype=torch.float32)
        return weights.to(q.dtype) @ v
    return scaled_dot_product_attention(q, k, v)


_PLAIN_PIXELS = 1024  # beyond these the table of all pairs is too large to be written out
