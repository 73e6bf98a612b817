"""The weights of score_sde_pytorch's networks, by their names there and here.

Its U-Nets, `ddpm` and `ncsnpp`, number their modules 0, 1, 2, ... in the order in which they are built, which is the order of `_slots`;
queries, keys, values and some skip paths are matrices there and 1x1 convolutions here. NCSN's names are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sde_diffusion.denoisers.blueprint import listed
from sde_diffusion.networks import UNet
from sde_diffusion.networks.blocks import Attention, Down, Join, ResidualBlock, Up
from sde_diffusion.networks.embeddings import RandomFourierFeatures


def names_of_weights(network: nn.Module) -> dict[str, tuple[list[str], Any]]:
    """For each weight of ours, the names of theirs that make it, and how."""
    if not isinstance(network, UNet):
        return {name: ([name], _same) for name in network.state_dict()}
    names = {}
    prefixes = {id(module): name for name, module in network.named_modules()}
    matrices = network.config.block == "ddpm"
    for index, module in enumerate(_slots(network)):
        for ours, theirs, transform in _weights(module, matrices=matrices):
            names[f"{prefixes[id(module)]}.{ours}"] = ([f"all_modules.{index}.{name}" for name in theirs], transform)
    return names


def _slots(network: Any) -> Iterator[nn.Module]:
    """Our modules in the order in which score_sde_pytorch numbers its own."""
    residual_input, residual_output = (mode == "residual" for mode in (network.config.progressive_input, network.config.progressive_output))
    if network.config.embedding == "fourier":
        yield network.embed.features
    yield network.embed.perceptron[0]
    yield network.embed.perceptron[2]
    yield network.first
    for down in network.down:
        yield from _present(down.resample, down.join, down.pyramid if residual_input else None)
        yield from _with_attention(down.blocks)
    yield from _with_attention(network.middle)
    for up in network.up:
        yield from _with_attention(up.blocks)
        yield from _present(up.pyramid if residual_output else None, up.norm, up.conv, up.resample)
    yield from _present(network.norm, network.last)


def _present(*modules: nn.Module | None) -> Iterator[nn.Module]:
    return (module for module in modules if module is not None)


def _with_attention(blocks: Any) -> Iterator[nn.Module]:
    for block in blocks:
        yield block
        if isinstance(block.attention, Attention):
            yield block.attention


def _weights(module: nn.Module, *, matrices: bool) -> Iterator[tuple[str, list[str], Any]]:
    """(our weight, their weights, how) of a module; `matrices` says whether skip paths have them, and not 1x1 convolutions."""
    match module:
        case ResidualBlock():
            pairs = [("norm1", "GroupNorm_0"), ("conv1", "Conv_0"), ("film", "Dense_0"), ("norm2", "GroupNorm_1"), ("conv2", "Conv_1")]
            if not isinstance(module.skip, nn.Identity):
                if matrices:
                    yield "skip.weight", ["NIN_0.W"], _convolution
                    yield "skip.bias", ["NIN_0.b"], _same
                else:
                    pairs.append(("skip", "Conv_2"))
        case Attention():
            pairs = [("norm", "GroupNorm_0")]
            yield "qkv.weight", ["NIN_0.W", "NIN_1.W", "NIN_2.W"], _convolution
            yield "qkv.bias", ["NIN_0.b", "NIN_1.b", "NIN_2.b"], torch.cat
            yield "out.weight", ["NIN_3.W"], _convolution
            yield "out.bias", ["NIN_3.b"], _same
        case Down() | Up():
            pairs = [] if module.conv is None else [("conv", "Conv2d_0" if module.resample.length else "Conv_0")]
        case Join():
            pairs = [("conv", "Conv_0")]
        case RandomFourierFeatures():
            pairs = []
            yield "periods", ["W"], _same
        case _:
            pairs = []
            yield "weight", ["weight"], _same
            yield "bias", ["bias"], _same
    for ours, theirs in pairs:
        for name in ("weight", "bias"):
            yield f"{ours}.{name}", [f"{theirs}.{name}"], _same


def _same(tensors: list[Tensor]) -> Tensor:
    return tensors[0]


def _convolution(tensors: list[Tensor]) -> Tensor:
    """A 1x1 convolution (outputs, inputs, 1, 1) of matrices (inputs, outputs)."""
    return torch.cat([w.mT for w in tensors])[..., None, None]


def check_fit(state: Mapping[str, Tensor], network: nn.Module, names: Mapping[str, tuple[list[str], Any]], path: str | Path) -> None:
    """Raises ValueError unless the weights are those of the configuration's network, in number and shape."""
    wanted = {name for theirs, _ in names.values() for name in theirs}
    missing, unexpected = (sorted(names, key=_in_order) for names in (wanted - set(state), set(state) - wanted - {"sigmas"}))
    own = network.state_dict()
    shapes = [
        f"{theirs[0]} has shape {tuple(state[theirs[0]].shape)}, the configuration makes it {tuple(own[ours].shape)}"
        for ours, (theirs, transform) in names.items()
        if all(name in state for name in theirs) and transform([state[name] for name in theirs]).shape != own[ours].shape
    ]
    if missing or unexpected or shapes:
        parts = [listed("missing", missing), listed("unexpected", unexpected), listed("of another shape", shapes)]
        raise ValueError(
            f"the weights of {path} are not those of the configuration; {'; '.join(filter(None, parts))}."
            f" Likely {_likely(wanted, set(state) - {'sigmas'})}"
        )


def _in_order(name: str) -> list[Any]:
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in name.split(".")]


def _likely(wanted: set[str], found: set[str]) -> str:
    """The settings that are most likely wrong, by the number of weights of each kind."""
    for kind, settings in {
        "0.W": "model.embedding_type ('fourier' has all_modules.0.W)",
        "Conv_1.weight": "model.num_res_blocks, model.ch_mult or model.resblock_type",  # one per residual block
        "Conv_2.weight": "model.resblock_type ('biggan' has Conv_2, 'ddpm' NIN_0)",
        "NIN_3.W": "model.attn_resolutions or data.image_size",  # one per attention
        "Conv2d_0.weight": "model.fir or model.progressive_input",
    }.items():
        if sum(name.endswith("." + kind) for name in wanted) != sum(name.endswith("." + kind) for name in found):
            return settings
    if wanted == found:
        return "model.nf, model.ch_mult, model.attn_resolutions or data.num_channels"
    return "model.name, model.attn_resolutions, model.progressive or model.progressive_input"
