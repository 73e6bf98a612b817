"""The diffusion transformer (Peebles & Xie 2022, arXiv 2212.09748), its block with adaLN-Zero.

    e:       c_noise -> sines and cosines -> perceptron (+ class embedding)
    first:   patches of patch x patch pixels -> tokens h (b, n, width), plus a fixed embedding of their place
    blocks:  h <- h + g1 attention((1 + s1) norm(h) + b1)                                                              (1)
             h <- h + g2 perceptron((1 + s2) norm(h) + b2),    (b1, s1, g1, b2, s2, g2) = linear(silu(e))
    last:    linear((1 + s) norm(h) + b) -> patches -> image,  (b, s) = linear(silu(e))

Norms have no weights of their own. The linear maps of e and the last one start at zero, so that an untrained block is the identity and an
untrained network predicts F = 0. Token (row y, column x) is placed by

    [sin(w x), cos(w x), sin(w y), cos(w y)],    w_k = 10000^(-k/m),    k = 0..m - 1,    m = width/4.                    (2)

Parameters are named as in the authors' code, so that `load_state_dict` takes their checkpoints.

    dit_s_2    32.9 M parameters        dit_l_2   458 M
    dit_b_2   130 M                     dit_xl_2  675 M
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from sde_diffusion.networks.embeddings import FourierFeatures, PositionalFeatures

_FEATURES = 256  # sines and cosines of c_noise, in the authors' code
_NORM_EPS = 1e-6  # likewise
_STD = 0.02  # likewise, of the first weights of the embeddings


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """What a diffusion transformer is made of; the defaults are small.

    Args:
        channels: of the data, >= 1.
        size: height and width of the images, a multiple of `patch`.
        patch: height and width of a patch; halving it makes four times as many tokens.
        width: of a token, a multiple of 4 and of `heads`.
        depth: number of blocks, >= 1.
        heads: of the attention.
        mlp_ratio: hidden width of the perceptrons in units of width.
        embedding: "octaves" of log(sigma/alpha)/4 (FourierFeatures), or "positional" of a step 0..999 as in the paper (PositionalFeatures).
        classes: number of class labels, 0 for none; index `classes` is the null class, which is what cond=None means.
        learned_variance: twice the channels out, for LearnedVariance.
        checkpointing: whether blocks are computed again in the backward pass instead of kept: less memory, a third more time.

    Raises:
        ValueError: for numbers that do not fit together.
    """

    channels: int = 1
    size: int = 32
    patch: int = 2
    width: int = 128
    depth: int = 4
    heads: int = 4
    mlp_ratio: int = 4
    embedding: Literal["octaves", "positional"] = "octaves"
    classes: int = 0
    learned_variance: bool = False
    checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("channels", "size", "patch", "width", "depth", "heads", "mlp_ratio"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.classes < 0:
            raise ValueError(f"classes must not be negative, got {self.classes}; 0 makes an unconditional network")
        if self.embedding not in ("octaves", "positional"):
            raise ValueError(f"embedding must be 'octaves' or 'positional', got {self.embedding!r}")
        if self.size % self.patch:
            raise ValueError(f"size must be a multiple of patch={self.patch}, got {self.size}; pad the images or change the patch")
        if self.width % 4 or self.width % self.heads:
            raise ValueError(f"width must be a multiple of 4 and of heads={self.heads}, got {self.width}")

    @property
    def side(self) -> int:
        """Patches per side."""
        return self.size // self.patch

    @property
    def outputs(self) -> int:
        """Channels of the output."""
        return 2 * self.channels if self.learned_variance else self.channels


class _Noise(nn.Module):
    """c_noise (b,) -> (b, width)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        positional = config.embedding == "positional"
        self.features = PositionalFeatures(_FEATURES, sine_first=False) if positional else FourierFeatures(_FEATURES)
        self.mlp = nn.Sequential(nn.Linear(_FEATURES, config.width), nn.SiLU(), nn.Linear(config.width, config.width))

    def forward(self, c_noise: Tensor) -> Tensor:
        return self.mlp(self.features(c_noise).to(self.mlp[0].weight.dtype))


class _Classes(nn.Module):
    """Labels (b,) -> (b, width); the null class comes last."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(config.classes + 1, config.width)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels)


class _Patches(nn.Module):
    """Images (b, channels, size, size) -> tokens (b, n, width), row by row."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.channels, config.width, config.patch, config.patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class _Attention(nn.Module):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv, self.proj = nn.Linear(config.width, 3 * config.width), nn.Linear(config.width, config.width)

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = self.qkv(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        return self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Perceptron(nn.Module):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        hidden = config.mlp_ratio * config.width
        self.fc1, self.fc2 = nn.Linear(config.width, hidden), nn.Linear(hidden, config.width)

    def forward(self, h: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(h), approximate="tanh"))


class _Modulated(nn.Module):
    """What has a linear map of silu(e) to `parts` vectors per sample."""

    def __init__(self, config: DiTConfig, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.width, parts * config.width))

    def modulation(self, e: Tensor) -> tuple[Tensor, ...]:
        return self.adaLN_modulation(e)[:, None].chunk(self.parts, dim=2)


class _Block(_Modulated):
    """Equation (1)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config, 6)
        self.attn, self.mlp = _Attention(config), _Perceptron(config)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        b1, s1, g1, b2, s2, g2 = self.modulation(e)
        h = h + g1 * self.attn((1 + s1) * _norm(h) + b1)
        return h + g2 * self.mlp((1 + s2) * _norm(h) + b2)


class _Last(_Modulated):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config, 2)
        self.linear = nn.Linear(config.width, config.patch**2 * config.outputs)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        b, s = self.modulation(e)
        return self.linear((1 + s) * _norm(h) + b)


class DiT(nn.Module):
    """A noise-conditional transformer F(x, c_noise, cond) for images (b, channels, size, size).

    Args:
        config: what it is made of.

    Attributes:
        expression: what builds this network again, untrained.

    Raises:
        ValueError: when called with images of another shape, or with labels if there are no classes.
    """

    pos_embed: Tensor

    def __init__(self, config: DiTConfig = DiTConfig()) -> None:
        super().__init__()
        self.config = config
        self.expression = f"DiT({config!r})"
        self.x_embedder, self.t_embedder = _Patches(config), _Noise(config)
        self.y_embedder = _Classes(config) if config.classes else None
        self.register_buffer("pos_embed", _places(config))
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.final_layer = _Last(config)
        self._initialise()

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        self._check(x)
        e = self.t_embedder(c_noise)
        if self.y_embedder is not None:
            cond = torch.full_like(c_noise, self.config.classes, dtype=torch.long) if cond is None else cond
            e = e + self.y_embedder(cond)
        elif cond is not None:
            raise ValueError("cond was given to a network without classes; build it with classes=10, say")
        h = self.x_embedder(x) + self.pos_embed
        recompute = self.config.checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            h = checkpoint(block, h, e, use_reentrant=False) if recompute else block(h, e)
        side, patch = self.config.side, self.config.patch
        patches = self.final_layer(h, e).unflatten(2, (patch, patch, -1)).unflatten(1, (side, side))
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, *x.shape[2:])  # b, c, row, patch, column, patch

    def _check(self, x: Tensor) -> None:
        shape = (self.config.channels, self.config.size, self.config.size)
        if x.shape[1:] != shape:
            raise ValueError(
                f"this DiT takes images (b, {', '.join(map(str, shape))}), got {tuple(x.shape)}; set its channels and size to match,"
                " or use UNet for images of many sizes"
            )

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                nn.init.constant_(module.bias, 0)  # type: ignore[arg-type]  # all have one
        for layer in self.t_embedder.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=_STD)
        if self.y_embedder is not None:
            nn.init.normal_(self.y_embedder.embedding_table.weight, std=_STD)
        for linear in (*(module.adaLN_modulation[1] for module in (*self.blocks, self.final_layer)), self.final_layer.linear):
            nn.init.zeros_(linear.weight)


def _norm(h: Tensor) -> Tensor:
    return layer_norm(h, h.shape[-1:], eps=_NORM_EPS)


def _places(config: DiTConfig) -> Tensor:
    """Equation (2), (1, n, width)."""
    m, places = config.width // 4, torch.arange(config.side, dtype=torch.float64)
    angles = places[:, None] * torch.exp(-math.log(1e4) / m * torch.arange(m, dtype=torch.float64))
    line = torch.cat((angles.sin(), angles.cos()), dim=1)
    x, y = line.repeat(config.side, 1), line.repeat_interleave(config.side, dim=0)
    return torch.cat((x, y), dim=1)[None].float()


def _latents(size: int, width: int, depth: int, heads: int) -> DiT:
    return DiT(
        DiTConfig(
            channels=4,
            size=size,
            patch=2,
            width=width,
            depth=depth,
            heads=heads,
            embedding="positional",
            classes=1000,
            learned_variance=True,
        )
    )


def dit_s_2(*, size: int = 32) -> DiT:
    """DiT-S/2 for latents of ImageNet (4 channels, size = pixels/8), told the step 0..999: TimeLabel(1000, -1) (Peebles & Xie 2022)."""
    return _latents(size, width=384, depth=12, heads=6)


def dit_b_2(*, size: int = 32) -> DiT:
    """DiT-B/2, as `dit_s_2` but larger (Peebles & Xie 2022)."""
    return _latents(size, width=768, depth=12, heads=12)


def dit_l_2(*, size: int = 32) -> DiT:
    """DiT-L/2, as `dit_s_2` but larger (Peebles & Xie 2022)."""
    return _latents(size, width=1024, depth=24, heads=16)


def dit_xl_2(*, size: int = 32) -> DiT:
    """DiT-XL/2, as `dit_s_2` but larger (Peebles & Xie 2022)."""
    return _latents(size, width=1152, depth=28, heads=16)
