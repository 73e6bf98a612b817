"""Our U-Nets as diffusers' UNet2DModel, which can be saved, shared and sampled without this package.

UNet2DModel is DDPM's U-Net, with improved DDPM's and ADM's options. What it lacks: sums divided by sqrt(2), resampling by a kernel,
progressive growing, the slim form, signals and volumes, attention after the last block of a level only, and embeddings of logarithms.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sde_diffusion.denoisers import X0, Denoiser, Epsilon, NetworkDenoiser, Parameterization, V
from sde_diffusion.denoisers.conditioning import TimeLabel
from sde_diffusion.networks import UNet, UNetConfig
from sde_diffusion.networks.blocks import Attention, ResidualBlock
from sde_diffusion.sdes import DDPMChain
from sde_diffusion.solvers import Ancestral


def to_diffusers(denoiser: Denoiser, *, size: int | None = None) -> Any:
    """A denoiser's network as a diffusers DDPMPipeline of the same samples.

    The scheduler is diffusers' own DDPMScheduler for a DDPM chain whose network is told the step, otherwise a `TableauScheduler`.

    Args:
        denoiser: a NetworkDenoiser of a UNet; its weights are copied.
        size: side of the images, the pipeline's default.

    Raises:
        ImportError: without diffusers.
        ValueError: for a network that a UNet2DModel cannot express, with the settings that it lacks.
    """
    if not isinstance(denoiser, NetworkDenoiser) or not isinstance(denoiser.network, UNet):
        inner = type(denoiser.network).__name__ if isinstance(denoiser, NetworkDenoiser) else type(denoiser).__name__
        raise ValueError(f"a UNet2DModel can express a UNet only, got {inner}; hand it on with denoiser.save_pretrained")
    options = unet2d_options(denoiser.network.config)
    try:
        from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
    except ImportError as error:
        raise ImportError("diffusers is needed; pip install 'sde_diffusion[diffusers]'") from error
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and then replaced
        model = UNet2DModel(sample_size=size, **options)
    weights = denoiser.network.state_dict()
    like = next(denoiser.network.parameters())
    model.load_state_dict({theirs: tensor.clone() for theirs, tensor in _renamed(denoiser.network, weights)})
    model.to(like).train(denoiser.training)

    kind: Parameterization = denoiser.parameterization
    learned = kind.learns_variance
    kind = getattr(kind, "inner", kind)
    predictions: dict[Parameterization, str] = {Epsilon(): "epsilon", X0(): "sample", V(): "v_prediction"}
    sde, n = denoiser.sde, denoiser.sde.length
    if isinstance(sde, DDPMChain) and n and kind in predictions and denoiser.conditioning == TimeLabel(n, -1):
        scheduler: Any = DDPMScheduler(
            num_train_timesteps=n,
            trained_betas=list(sde.betas),
            prediction_type=predictions[kind],
            variance_type="learned_range" if learned else "fixed_small",
            clip_sample=False,
        )
    else:
        from sde_diffusion.interop.diffusers.scheduler import TableauScheduler

        scheduler = TableauScheduler(Ancestral(), sde, denoiser.parameterization, denoiser.conditioning)
    return DDPMPipeline(model, scheduler)


def unet2d_options(config: UNetConfig) -> dict[str, Any]:
    """The options of the UNet2DModel that is the same network.

    Raises:
        ValueError: if there is none.
    """
    channels = [config.width * multiplier for multiplier in config.multipliers]
    groups = {max(1, min(config.groups, c // config.group_channels)) for c in channels}
    heads = {c // config.heads_at(c) for level, c in enumerate(channels) if level in (*config.attention, len(channels) - 1)}
    needs = {
        "dims=2": config.dims == 2,
        "slim=False": not config.slim,
        "skip_rescale=False": not config.skip_rescale,
        "fir=()": not config.fir,
        "progressive_input='none'": config.progressive_input == "none",
        "progressive_output='none'": config.progressive_output == "none",
        "recentre=False": not config.recentre,
        "embedding='ddpm' or 'adm'": config.embedding in ("ddpm", "adm"),
        "attention_up='each'": config.attention_up == "each" or not config.attention,
        "resample_conv=True": config.resample_conv or config.block == "biggan",
        "project_resampled=False": config.block == "ddpm" or not config.project_resampled,
        f"as many groups at every level, not {sorted(groups)}": len(groups) == 1,
        f"as many channels per head at every level, not {sorted(heads)}": len(heads) == 1 or config.heads_at(channels[-1]) == 1,
    }
    lacking = [need for need, met in needs.items() if not met]
    if lacking:
        raise ValueError(
            f"a UNet2DModel needs {', '.join(lacking)}; train with that, or hand the denoiser on with denoiser.save_pretrained"
        )
    levels = range(len(channels))
    biggan = config.block == "biggan"
    down, up = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if biggan else ("DownBlock2D", "UpBlock2D")
    return {
        "in_channels": config.channels,
        "out_channels": config.outputs,
        "block_out_channels": tuple(channels),
        "layers_per_block": config.blocks,
        "down_block_types": tuple("AttnDownBlock2D" if level in config.attention else down for level in levels),
        "up_block_types": tuple("AttnUpBlock2D" if level in config.attention else up for level in reversed(levels)),
        "attention_head_dim": None if config.heads_at(channels[-1]) == 1 else min(heads),
        "flip_sin_to_cos": config.embedding == "adm",
        "freq_shift": 1 if config.embedding == "ddpm" else 0,
        "downsample_padding": 0 if config.downsample_padding == "after" else 1,
        "downsample_type": "resnet" if biggan else "conv",
        "upsample_type": "resnet" if biggan else "conv",
        "resnet_time_scale_shift": "scale_shift" if config.film else "default",
        "dropout": config.dropout,
        "norm_num_groups": min(groups),
        "attn_norm_num_groups": min(groups),
        "norm_eps": config.norm_eps,
        "num_class_embeds": config.classes + 1 if config.classes else None,
    }


def _renamed(network: Any, weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(their name, tensor) of all weights."""
    prefixes = {id(module): name for name, module in network.named_modules()}
    last = len(network.down) - 1

    def block(module: nn.Module, theirs: str, attention: str) -> Iterator[tuple[str, Tensor]]:
        ours = prefixes[id(module)]
        pairs = {"norm1": "norm1", "conv1": "conv1", "film": "time_emb_proj", "norm2": "norm2", "conv2": "conv2", "skip": "conv_shortcut"}
        for mine, name in pairs.items():
            for kind in ("weight", "bias"):
                if f"{ours}.{mine}.{kind}" in weights:
                    yield f"{theirs}.{name}.{kind}", weights[f"{ours}.{mine}.{kind}"]
        if isinstance(module.attention, Attention):
            for kind in ("weight", "bias"):
                yield f"{attention}.group_norm.{kind}", weights[f"{ours}.attention.norm.{kind}"]
                for name, part in zip(("to_q", "to_k", "to_v"), weights[f"{ours}.attention.qkv.{kind}"].chunk(3), strict=True):
                    yield f"{attention}.{name}.{kind}", part.flatten(1) if part.ndim > 1 else part
                out = weights[f"{ours}.attention.out.{kind}"]
                yield f"{attention}.to_out.0.{kind}", out.flatten(1) if out.ndim > 1 else out

    def resampling(module: nn.Module, theirs: str) -> Iterator[tuple[str, Tensor]]:
        if isinstance(module, ResidualBlock):
            yield from block(module, theirs, "")
        else:
            for kind in ("weight", "bias"):
                yield f"{theirs}.conv.{kind}", weights[f"{prefixes[id(module)]}.conv.{kind}"]

    plain = {"first": "conv_in", "embed.perceptron.0": "time_embedding.linear_1", "embed.perceptron.2": "time_embedding.linear_2"}
    plain |= {"embed.labels": "class_embedding", "norm": "conv_norm_out", "last": "conv_out"}
    for ours, theirs in plain.items():
        for kind in ("weight", "bias"):
            if f"{ours}.{kind}" in weights:
                yield f"{theirs}.{kind}", weights[f"{ours}.{kind}"]
    for level, down in enumerate(network.down):
        if down.resample is not None:
            yield from resampling(down.resample, f"down_blocks.{level - 1}.downsamplers.0")
        for i, module in enumerate(down.blocks):
            yield from block(module, f"down_blocks.{level}.resnets.{i}", f"down_blocks.{level}.attentions.{i}")
    for i, module in enumerate(network.middle):
        yield from block(module, f"mid_block.resnets.{i}", f"mid_block.attentions.{i}")
    for level, up in enumerate(network.up):
        for i, module in enumerate(up.blocks):
            yield from block(module, f"up_blocks.{level}.resnets.{i}", f"up_blocks.{level}.attentions.{i}")
        if level < last:
            yield from resampling(up.resample, f"up_blocks.{level}.upsamplers.0")
