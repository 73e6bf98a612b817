"""The blocks of the score networks NCSN and NCSNv2: a RefineNet (Lin et al. 2017) with dilated convolutions, ELU and InstanceNorm++.

InstanceNorm++ (Song & Ermon 2019; here as in their code) gives a normalised map k back what its mean mu_k said about it,

    gamma_k ((x_k - mu_k) / sigma_k + alpha_k (mu_k - m) / s) + beta_k,                                                       (1)

m and s the mean and standard deviation of (mu_1, ..., mu_C) over the channels.  Its conditional form has one (gamma, alpha, beta)
per noise level.  The blocks:

    ResidualBlock     shortcut(x) + conv(elu(norm(conv(elu(norm(x))))));  down: a 2x2 mean after conv, or dilation instead
    RCUBlock          residual convolution units: x + conv(elu(norm(conv(elu(norm(x)))))), repeated
    MSFBlock          multi-resolution fusion: sum_i upsample(conv(norm(x_i)))
    CRPBlock          chained residual pooling: elu(x) + p_1 + p_2,  p_1 = conv(pool(norm(elu(x)))),  p_2 = conv(pool(norm(p_1)))
    RefineBlock       an RCUBlock per input, MSFBlock if there are two, CRPBlock, RCUBlock

Where a norm is written, a block takes a function features -> module(x, level): InstanceNormPlus, its conditional form, or NoNorm.
Names of parameters are those of the authors' code (github.com/ermongroup/ncsnv2), so that its checkpoints load as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, elu, instance_norm, interpolate, max_pool2d

EPSILON = 1e-5  # added to both variances of (1), as in the authors' code
SPREAD = 0.02  # gamma and alpha start as N(1, SPREAD^2), as in the authors' code

Norm = Callable[[int], nn.Module]
Pool = Callable[[Tensor], Tensor]


def mean5(x: Tensor) -> Tensor:
    """The 5x5 mean pooling of NCSN, of stride 1; the zeros beyond the border count."""
    return avg_pool2d(x, 5, stride=1, padding=2)


def max5(x: Tensor) -> Tensor:
    """The 5x5 maximum pooling of NCSNv2, of stride 1."""
    return max_pool2d(x, 5, stride=1, padding=2)


def _normalise(x: Tensor, alpha: Tensor) -> Tensor:
    """Equation (1) before gamma and beta; alpha is (c, 1, 1) or (b, c, 1, 1)."""
    mean = x.mean((2, 3), keepdim=True)
    variance, centre = torch.var_mean(mean, dim=1, keepdim=True)  # over the channels, unbiased
    return instance_norm(x, eps=EPSILON) + alpha * ((mean - centre) / (variance + EPSILON).sqrt())


class NoNorm(nn.Module):
    """x -> x, whatever the noise level."""

    def __init__(self, features: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return x


class InstanceNormPlus(nn.Module):
    """InstanceNorm++, equation (1), whatever the noise level."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(features).normal_(1, SPREAD))
        self.gamma = nn.Parameter(torch.empty(features).normal_(1, SPREAD))
        self.beta = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        alpha, gamma, beta = (p[:, None, None] for p in (self.alpha, self.gamma, self.beta))
        return torch.addcmul(beta, gamma, _normalise(x, alpha))


class ConditionalInstanceNormPlus(nn.Module):
    """InstanceNorm++, equation (1), with a row (gamma, alpha, beta) of a table for each noise level."""

    def __init__(self, features: int, levels: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(levels, 3 * features)
        nn.init.normal_(self.embed.weight[:, : 2 * features], 1, SPREAD)
        nn.init.zeros_(self.embed.weight[:, 2 * features :])

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        gamma, alpha, beta = self.embed(level)[:, :, None, None].chunk(3, dim=1)
        return torch.addcmul(beta, gamma, _normalise(x, alpha))


def _conv(inputs: int, outputs: int, *, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=bias)


class _ConvMeanPool(nn.Module):
    """A convolution, then a 2x2 mean."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return avg_pool2d(self.conv(x), 2)


class ResidualBlock(nn.Module):
    """shortcut(x) + conv2(elu(normalize2(conv1(elu(normalize1(x)))))).

    Args:
        inputs, outputs: number of channels; the same unless down.
        norm: features -> normalisation.
        down: end with a 2x2 mean or, if dilation > 1, with as many pixels: the dilation then replaces the coarser grid.
        dilation: of all 3x3 convolutions.
    """

    def __init__(self, inputs: int, outputs: int, norm: Norm, *, down: bool = False, dilation: int = 1) -> None:
        super().__init__()
        middle, pool = inputs if down else outputs, down and dilation == 1
        self.conv1 = _conv(inputs, middle, dilation=dilation)
        self.normalize2 = norm(middle)
        self.conv2: nn.Module = _ConvMeanPool(middle, outputs, 3) if pool else _conv(middle, outputs, dilation=dilation)
        self.shortcut: nn.Module = nn.Identity()
        if down:
            self.shortcut = _ConvMeanPool(inputs, outputs, 1) if pool else _conv(inputs, outputs, dilation=dilation)
        self.normalize1 = norm(inputs)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        h = self.conv1(elu(self.normalize1(x, level)))
        return self.shortcut(x) + self.conv2(elu(self.normalize2(h, level)))


class RCUBlock(nn.Module):
    """Residual convolution units: `units` times x -> x + conv(elu(norm(conv(elu(norm(x)))))).  Convolutions have no bias."""

    def __init__(self, features: int, norm: Norm, *, units: int) -> None:
        super().__init__()
        self.units = units
        for unit in range(1, units + 1):
            for stage in (1, 2):
                self.add_module(f"{unit}_{stage}_norm", norm(features))
                self.add_module(f"{unit}_{stage}_conv", _conv(features, features, bias=False))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        for unit in range(1, self.units + 1):
            h = x
            for stage in (1, 2):
                h = elu(self.get_submodule(f"{unit}_{stage}_norm")(h, level))
                h = self.get_submodule(f"{unit}_{stage}_conv")(h)
            x = x + h
        return x


class MSFBlock(nn.Module):
    """Multi-resolution fusion: sum_i upsample(conv_i(norm_i(x_i))), bilinear with aligned corners, to the size of x_0."""

    def __init__(self, inputs: Sequence[int], outputs: int, norm: Norm) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv(features, outputs) for features in inputs)
        self.norms = nn.ModuleList(norm(features) for features in inputs)

    def forward(self, xs: Sequence[Tensor], level: Tensor) -> Tensor:
        hs = [conv(norm(x, level)) for x, conv, norm in zip(xs, self.convs, self.norms, strict=True)]
        resized = [h if h.shape == hs[0].shape else interpolate(h, hs[0].shape[2:], mode="bilinear", align_corners=True) for h in hs]
        return torch.stack(resized).sum(0)


class CRPBlock(nn.Module):
    """Chained residual pooling: x_0 = p_0 = elu(x), p_k = conv_k(pool(norm_k(p_{k-1}))), x_k = x_{k-1} + p_k; gives x_2."""

    def __init__(self, features: int, norm: Norm, pool: Pool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv(features, features, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(norm(features) for _ in range(2))
        self.pool = pool

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        x = path = elu(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            path = conv(self.pool(norm(path, level)))
            x = x + path
        return x


class RefineBlock(nn.Module):
    """Adapts each input (RCUBlock), fuses two (MSFBlock), pools (CRPBlock) and ends with another RCUBlock.

    Args:
        inputs: channels of each input, the finest first; a single one is not fused and must have `outputs` channels.
        outputs: number of channels.
        norm: features -> normalisation.
        pool: 5x5 pooling that keeps the size, mean5 or max5.
        last: three residual units at the end, not one.
    """

    def __init__(self, inputs: Sequence[int], outputs: int, norm: Norm, pool: Pool, *, last: bool = False) -> None:
        super().__init__()
        self.adapt_convs = nn.ModuleList(RCUBlock(features, norm, units=2) for features in inputs)
        self.output_convs = RCUBlock(outputs, norm, units=3 if last else 1)
        self.msf = MSFBlock(inputs, outputs, norm) if len(inputs) > 1 else None
        self.crp = CRPBlock(outputs, norm, pool)

    def forward(self, xs: Sequence[Tensor], level: Tensor) -> Tensor:
        hs = [adapt(x, level) for x, adapt in zip(xs, self.adapt_convs, strict=True)]
        h = hs[0] if self.msf is None else self.msf(hs, level)
        return self.output_convs(self.crp(h, level), level)
