"""A residual perceptron for points: the network of every two-dimensional example.

    h_0 = W x,     h_{k+1} = h_k + B_k silu(FiLM(A_k norm(h_k); e(c_noise))),     F = C norm(h_depth)                       (1)

with FiLM as in embeddings.py (2).  C starts at zero, so that an untrained network predicts F = 0.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import silu

from sde_diffusion.networks.embeddings import NoiseEmbedding


class _Block(nn.Module):
    """One residual step of (1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.film = nn.Linear(width, 2 * width)
        self.outer = nn.Linear(width, width)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.film(e).chunk(2, dim=1)
        return h + self.outer(silu(self.inner(self.norm(h)) * (1 + scale) + shift))


class MLP(nn.Module):
    """A noise-conditional residual perceptron F(x, c_noise, cond).                                                          (1)

    Args:
        dim: number of coordinates; data (b, *d) are flattened to (b, dim) and the answer has the shape of x.
        width: number of hidden channels.
        depth: number of residual blocks.
        classes: number of class labels, 0 for none (see NoiseEmbedding).

    Attributes:
        expression: what builds this network again, untrained.

    Raises:
        ValueError: when called with x that do not have dim coordinates.
    """

    def __init__(self, dim: int = 2, width: int = 128, depth: int = 3, classes: int = 0) -> None:
        super().__init__()
        self.dim = dim
        self.expression = f"MLP(dim={dim}, width={width}, depth={depth}, classes={classes})"
        self.embed = NoiseEmbedding(width, classes=classes)
        self.first = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, dim)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        if x[0].numel() != self.dim:
            raise ValueError(f"data of shape {tuple(x.shape[1:])} has {x[0].numel()} coordinates, this MLP takes {self.dim};"
                             f" build it with dim={x[0].numel()}")  # fmt: skip
        e = self.embed(c_noise, cond)
        h = self.first(x.flatten(1))
        for block in self.blocks:
            h = block(h, e)
        return self.last(self.norm(h)).reshape(x.shape)
