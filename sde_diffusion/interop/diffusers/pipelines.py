"""Models of diffusers as denoisers.  Needs `pip install 'sde_diffusion[diffusers]'`.

A pipeline is a network, a scheduler and, for latent and text models, an autoencoder and encoders of text. The network with what the
scheduler's configuration says of it (schedules.py) is a denoiser of images or of latents; the rest stays the pipeline's:

    pipeline = StableDiffusionPipeline.from_pretrained(...)
    wanted, unwanted = pipeline.encode_prompt(prompt, device, 1, True, negative_prompt)
    denoiser = ClassifierFreeGuidance(from_diffusers(pipeline), 7.5, null=unwanted)
    latents = sample(denoiser, DPMSolverPP(), steps=20, shape=(1, 4, 64, 64), cond=wanted)
    images = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample

(SD 3's autoencoder wants latents / scaling_factor + shift_factor.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.interop.diffusers.schedules import read_schedule

MODELS = {
    "UNet2DModel": "class_labels",
    "UNet2DConditionModel": "encoder_hidden_states",
    "DiTTransformer2DModel": "class_labels",
    "PixArtTransformer2DModel": "encoder_hidden_states",
    "SD3Transformer2DModel": "encoder_hidden_states",
    "FluxTransformer2DModel": "encoder_hidden_states",
    "WanTransformer3DModel": "encoder_hidden_states",
}
"""The networks that are understood, and what a condition that is a tensor is to them."""
SCALES = {"FluxTransformer2DModel": 1e-3}  # of the labels, for networks that take another unit than their scheduler


class DiffusersNetwork(nn.Module):
    """A network of diffusers, called as ours are: forward(x, c_noise, cond).

    Args:
        model: of one of the classes in MODELS.

    Raises:
        ValueError: for another class, or a network whose output is not like its input, or that with a variance.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        name = type(model).__name__
        if name not in MODELS:
            raise ValueError(f"a network {name} is not among those that are understood: {', '.join(MODELS)}; write a module around it")
        config: Any = model.config
        self.model = model
        self.condition = MODELS[name]
        self.scale = SCALES.get(name, 1.0)
        self.whole = config.get("time_embedding_type") == "learned"
        channels, out = config.in_channels, config.get("out_channels") or config.in_channels
        self.learns_variance = out == 2 * channels
        if out not in (channels, 2 * channels):
            raise ValueError(
                f"{name} takes {channels} channels and returns {out}: some of them are an image beside the state, for inpainting or "
                "super-resolution; write a module around it that takes the image as its condition"
            )

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | Mapping[str, Any] | None = None) -> Tensor:
        """The network's output, (b, C or 2C, ...).

        Args:
            x: states, (b, C, ...).
            c_noise: labels, (b,), rounded for a network with a table of them.
            cond: prompt embeddings (b, length, width) or class labels (b,), or a dict of the model's own keywords, such as
                {"encoder_hidden_states": ..., "pooled_projections": ...} for SD 3, {"encoder_hidden_states": ...,
                "added_cond_kwargs": {"text_embeds": ..., "time_ids": ...}} for SDXL.
        """
        label = c_noise.round().long() if self.whole else c_noise * self.scale
        given = {} if cond is None else {self.condition: cond} if isinstance(cond, Tensor) else cond
        if "encoder_hidden_states" not in given and self.condition == "encoder_hidden_states":
            raise ValueError(f"{type(self.model).__name__} needs prompt embeddings, got cond={_words(cond)}; see pipeline.encode_prompt")
        y: Tensor = self.model(x, timestep=label, return_dict=False, **given)[0]
        return y


def from_diffusers(source: Any, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Denoiser:
    """The denoiser of a pipeline: x0_hat of images or, where the pipeline has an autoencoder, of its latents.

    The network is the pipeline's own module, in its mode. A model whose scheduler clips or thresholds is wrapped in `Clipped` or
    `DynamicThreshold`: guide what is inside, `Clipped(ClassifierFreeGuidance(denoiser.inner, ...))`. A learned variance is kept, for
    `Ancestral("learned")`. The schedulers' own times are `chain_grid(spacing="leading")` or "trailing", with their steps_offset, and a
    flow's `grid=scheduler.sigmas`.

    Args:
        source: an object with `scheduler` and `unet` or `transformer`, such as a DDPMPipeline, StableDiffusionPipeline or DiTPipeline; a
            folder that `pipeline.save_pretrained` wrote; or user/name on the hub, from which the network and the configurations are
            fetched. Weights are read from safetensors only: a pickle (.bin) can run whatever it likes.
        device: where to move the network, in place; None: it stays.
        dtype: of the network, in place; None: its own.

    Raises:
        ImportError: for a folder or a name, without diffusers.
        OSError: if there is no such folder, it holds no pipeline or no safetensors, or nothing could be fetched.
        ValueError: for a network or a scheduler that is not understood.
    """
    model, config = _load(os.fspath(source)) if isinstance(source, str | os.PathLike) else _parts(source)
    network = DiffusersNetwork(model)
    if network.learns_variance and config.get("variance_type") == "learned":
        raise ValueError("variance_type='learned', a variance rather than a place between two, is not supported; 'learned_range' is")
    denoiser = read_schedule(config).denoiser(network, learns_variance=network.learns_variance)
    return denoiser.to(device=device, dtype=dtype)


def _parts(pipeline: Any) -> tuple[nn.Module, Mapping[str, Any]]:
    model = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    scheduler = getattr(pipeline, "scheduler", None)
    if not isinstance(model, nn.Module) or scheduler is None:
        raise ValueError(
            f"a pipeline has a scheduler and a unet or transformer, got {type(pipeline).__name__}; pass a pipeline or its folder"
        )
    return model, {**scheduler.config, "_class_name": type(scheduler).__name__}


def _load(source: str) -> tuple[nn.Module, Mapping[str, Any]]:
    """The network and the scheduler's configuration of a folder or of user/name on the hub; nothing else is read or fetched."""
    diffusers = _diffusers(source)
    local = Path(source).is_dir()
    if not local and (source.count("/") != 1 or source.startswith(("/", ".", "~"))):
        raise OSError(f"there is no folder {source}; give the folder that pipeline.save_pretrained wrote, or user/name of the hub")
    try:
        index = diffusers.DiffusionPipeline.load_config(source)
    except Exception as error:  # of many kinds, and which one depends on the version
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        fetched = f"there is no folder {source}, and its model_index.json was not fetched from the hub"
        cure = "unset HF_HUB_OFFLINE" if offline else "check the name, the network and the access token (`hf auth login`)"
        what, cure = (f"{source} holds no pipeline", "write one with pipeline.save_pretrained") if local else (fetched, cure)
        raise OSError(f"{what} ({type(error).__name__}: {error}); {cure}, or pass a pipeline") from error
    name = "unet" if "unet" in index else "transformer"
    library, kind = index.get(name) or (None, None)
    if library != "diffusers" or kind not in MODELS:
        raise ValueError(
            f"{source} has the network {kind!r} of {library!r}, but diffusers' {', '.join(MODELS)} are understood; write a module"
        )
    folders: tuple[str | None, str | None] = ("scheduler", name)
    try:
        config = diffusers.DDPMScheduler.load_config(source, subfolder="scheduler")
    except OSError:  # all in one folder, as the oldest pipelines are
        folders, config = (None, None), diffusers.DDPMScheduler.load_config(source)
    try:
        model = getattr(diffusers, kind).from_pretrained(source, subfolder=folders[1], use_safetensors=True)
    except OSError as error:
        raise OSError(
            f"the {name} of {source} has no weights in safetensors ({error}); pickled weights (.bin) are not read, for they can run code: "
            "load them where you trust them and write them anew with pipeline.save_pretrained(folder)"
        ) from error
    return model, config


def _diffusers(source: str) -> ModuleType:
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(f"diffusers is needed to load {source!r}; pip install 'sde_diffusion[diffusers]'") from error
    return diffusers


def _words(cond: Any) -> str:
    return f"a dict with {sorted(cond)}" if isinstance(cond, Mapping) else repr(cond)
