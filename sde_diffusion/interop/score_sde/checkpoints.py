"""Checkpoints of score_sde_pytorch (Song et al. 2021), by their configuration.

A `checkpoint_N.pth` holds model (names with "module." before them), ema (averages, a list in the order of the parameters), optimizer and
step; weights.py has the names. What the configuration says of noise becomes

    sde       continuous   process                             c_noise             network is
    vpsde     yes          VPSDE(beta_min, beta_max)           999 t               -sigma score = eps
    vpsde     no           DDPMChain of num_scales steps       step 0..n-1         eps
    subvpsde  either       SubVPSDE(beta_min, beta_max)        999 t               eps
    vesde     yes          VESDE(sigma_min, sigma_max)         log sigma           sigma score, if scale_by_sigma
    vesde     no           NCSNLadder of num_scales levels     n - n t             sigma score, if scale_by_sigma, or the score

so that no network of ours divides by sigma itself. Data are in [-1, 1], or in [0, 1] where `data.centered` is false.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn

from sde_diffusion.denoisers import Conditioning, Epsilon, NetworkDenoiser, Parameterization, PlainScore, Score, SigmaLabel, TimeLabel
from sde_diffusion.interop.score_sde.weights import check_fit, names_of_weights
from sde_diffusion.networks import NCSN, NCSNv2, UNet, UNetConfig
from sde_diffusion.sdes import VESDE, VPSDE, AffineSDE, DDPMChain, NCSNLadder, SubVPSDE, geometric_sigmas, linear_betas

NCSNV2_DEPTHS = {"ncsnv2_64": 4, "ncsnv2_128": 5, "ncsnv2_256": 6}


def load_score_sde(path: str | Path, config: Any, *, ema: bool = True) -> NetworkDenoiser:
    """The denoiser of a score_sde_pytorch checkpoint.

    Args:
        path: of the `checkpoint_N.pth`; it is opened with weights_only, which runs no code.
        config: the configuration that it was trained with, as its `get_config()` returns it, or as nested mappings.
        ema: take the averaged weights, which sample better, not the last ones.

    Returns:
        A denoiser in evaluation mode, without gradients, on the CPU. Its data are in [0, 1] where `config.data.centered` is false.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file that is not such a checkpoint, weights that do not fit the configuration, or one that score_sde cannot run.
    """
    settings = _Settings(config)
    checkpoint = _open(Path(path))
    state = {name.removeprefix("module."): tensor for name, tensor in checkpoint["model"].items()}
    sde, conditioning, parameterization = _process(settings)
    network = _network(settings)
    names = names_of_weights(network)
    check_fit(state, network, names, path)
    if ema:
        state = _averaged(state, checkpoint, path)
    with torch.no_grad():
        network.load_state_dict({ours: transform([state[name] for name in theirs]) for ours, (theirs, transform) in names.items()})
    return NetworkDenoiser(network, sde, parameterization, conditioning).requires_grad_(False).eval()


class _Settings:
    """A configuration whose groups `data`, `model` and `training` are read with a clear error for what is missing."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def __call__(self, name: str, *default: Any) -> Any:
        """The setting "model.nf", say."""
        value = self.config
        for part in name.split("."):
            if not (isinstance(value, Mapping | ConfigDict) and part in value):
                if default:
                    return default[0]
                raise ValueError(
                    f"the configuration has no {name}; pass what the get_config() of the checkpoint's configuration file returns"
                )
            value = value[part]
        return value

    def one_of(self, name: str, *choices: Any) -> Any:
        value = self(name)
        value = value.lower() if isinstance(value, str) else value
        if value not in choices:
            raise ValueError(f"{name} must be one of {choices} here, got {value!r}; is it the configuration of this checkpoint?")
        return value


def _open(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; give the path of a checkpoint_N.pth")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises whatever a damaged file makes it raise
        raise ValueError(
            f"{path} cannot be opened as weights only ({str(error).splitlines()[0]}); it was refused, since a pickle runs code. If you"
            " trust it, load it yourself and save its 'model' and 'ema' again with torch.save"
        ) from None
    if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get("model"), Mapping):
        found = sorted(map(str, checkpoint)) if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
        raise ValueError(f"{path} holds {found}, not score_sde's model, ema, optimizer and step; is it another project's?")
    return checkpoint


def _averaged(state: dict[str, Tensor], checkpoint: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The state with the averages, which are listed in the order of the trained parameters."""
    averages = checkpoint.get("ema", {}).get("shadow_params")
    if averages is None:
        raise ValueError(f"{path} has no averaged weights; load the last ones with ema=False")
    trained = [name for name in state if name != "sigmas" and not _is_frequencies(name, state)]
    fits = len(trained) == len(averages) and all(state[n].shape == a.shape for n, a in zip(trained, averages, strict=False))
    if not fits:
        raise ValueError(f"{path} has {len(averages)} averages for {len(trained)} parameters; load the last weights with ema=False")
    return state | dict(zip(trained, averages, strict=True))


def _is_frequencies(name: str, state: Mapping[str, Tensor]) -> bool:
    return name == "all_modules.0.W" and state[name].ndim == 1


def _process(get: _Settings) -> tuple[AffineSDE, Conditioning, Parameterization]:
    kind, continuous = get.one_of("training.sde", "vpsde", "subvpsde", "vesde"), bool(get("training.continuous"))
    by_sigma, n = bool(get("model.scale_by_sigma")), get("model.num_scales")
    if kind == "vesde":
        low, high = get("model.sigma_min"), get("model.sigma_max")
        parameterization: Parameterization = Score() if by_sigma else PlainScore()
        if continuous:
            return VESDE(low, high), SigmaLabel(log=True), parameterization
        return NCSNLadder(geometric_sigmas(n, low, high)), TimeLabel(-n, n, whole=True), parameterization
    if by_sigma:
        raise ValueError(f"model.scale_by_sigma is for training.sde='vesde', got {kind!r}; is it the configuration of this checkpoint?")
    low, high = get("model.beta_min"), get("model.beta_max")
    if kind == "subvpsde":
        return SubVPSDE(low, high), TimeLabel(999.0), Epsilon()
    if continuous:
        return VPSDE(low, high), TimeLabel(999.0), Epsilon()
    return DDPMChain(linear_betas(n, low / n, high / n)), TimeLabel(n, -1), Epsilon()


def _network(get: _Settings) -> nn.Module:
    """The untrained network of a configuration."""
    family = get("model.name")
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and then replaced
        if family in ("ddpm", "ncsnpp"):
            return UNet(unet_config(get.config))
        shape = {"channels": get("data.num_channels"), "width": get("model.nf"), "centered": bool(get("data.centered"))}
        if family == "ncsn":
            return NCSN(levels=get("model.num_scales"), **shape)
        if family in NCSNV2_DEPTHS:
            return NCSNv2(depth=NCSNV2_DEPTHS[family], **shape)
    raise ValueError(f"model.name must be ddpm, ncsnpp, ncsn or ncsnv2_64, _128, _256, got {family!r}")


def unet_config(config: Any) -> UNetConfig:
    """The U-Net of a score_sde_pytorch configuration, whose model.name is "ddpm" or "ncsnpp".

    Raises:
        ValueError: for settings that are missing or that score_sde_pytorch itself cannot run.
    """
    get = _Settings(config)
    family = get.one_of("model.name", "ddpm", "ncsnpp")
    get.one_of("model.conditional", True)
    get.one_of("model.nonlinearity", "swish")
    size, multipliers = get("data.image_size"), tuple(get("model.ch_mult"))
    resolutions = [size // 2**level for level in range(len(multipliers))]
    common: dict[str, Any] = {
        "channels": get("data.num_channels"),
        "width": get("model.nf"),
        "multipliers": multipliers,
        "blocks": get("model.num_res_blocks"),
        "slim": False,
        "attention": tuple(level for level, side in enumerate(resolutions) if side in tuple(get("model.attn_resolutions"))),
        "attention_up": "last",
        "head_channels": 0,
        "film": False,
        "resample_conv": bool(get("model.resamp_with_conv")),
        "dropout": float(get("model.dropout")),
        "norm_eps": 1e-6,
        "initialisation": "xavier",
        "recentre": not get("data.centered"),
    }
    if family == "ddpm":
        return UNetConfig(**common, embedding="ddpm", skip_rescale=False, group_channels=1)
    growing: dict[str, Any] = {"none": "none", "input_skip": "skip", "output_skip": "skip", "residual": "residual"}
    embedding = get.one_of("model.embedding_type", "fourier", "positional")
    continuous_ve = get("training.sde") == "vesde" and get("training.continuous")
    if (embedding == "fourier") != continuous_ve:
        raise ValueError(
            f"model.embedding_type={embedding!r} does not go with training.sde={get('training.sde')!r} and"
            f" continuous={get('training.continuous')}: the frequencies are for log sigma, positions for steps; is it this checkpoint's?"
        )
    fir, block = bool(get("model.fir")), get.one_of("model.resblock_type", "ddpm", "biggan")
    grown = growing[get.one_of("model.progressive", "none", "output_skip", "residual")]
    if fir and (grown == "residual" or (block == "ddpm" and common["resample_conv"])):
        raise ValueError(
            "fir with an upsampling convolution (resblock_type='ddpm' or progressive='residual') fails in score_sde_pytorch too"
        )
    return UNetConfig(
        **common,
        embedding="fourier" if embedding == "fourier" else "ddpm",
        fourier_scale=float(get("model.fourier_scale", 16.0)),
        block=block,
        project_resampled=True,
        fir=tuple(map(float, get("model.fir_kernel"))) if fir else (),
        progressive_input=growing[get.one_of("model.progressive_input", "none", "input_skip", "residual")],
        progressive_output=grown,
        combine=get.one_of("model.progressive_combine", "sum", "cat"),
        skip_rescale=bool(get("model.skip_rescale")),
        group_channels=4,
    )
