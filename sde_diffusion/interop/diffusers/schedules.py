"""What the configuration of a diffusers scheduler says of the model that it belongs to.

A scheduler of diffusers is two things in one: the process that the model was trained for, and a sampler. Only the first is read here.

    beta schedules                          DDPMChain(betas)            label k = n t - 1, integer at the nodes t = (k + 1)/n
    FlowMatch..., flow_prediction           RectifiedFlow()             label n t
    ScoreSdeVe                              VESDE(sigma_min, sigma_max) label sigma

    epsilon, sample, v_prediction           Epsilon(), X0(), V()
    a flow's output, eps - x_0              Flow()
    a score                                 PlainScore()

A flow's `shift` moves a sampler's times, not the model's: `grid=scheduler.sigmas` takes them over.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from sde_diffusion.denoisers import (
    X0,
    Denoiser,
    Epsilon,
    Flow,
    LearnedVariance,
    NetworkDenoiser,
    Parameterization,
    PlainScore,
    SigmaLabel,
    TimeLabel,
    V,
)
from sde_diffusion.denoisers.clipping import Clipped, DynamicThreshold
from sde_diffusion.denoisers.conditioning import Conditioning
from sde_diffusion.sdes import VESDE, AffineSDE, DDPMChain, RectifiedFlow
from sde_diffusion.sdes.chains import cosine_betas, linear_betas

CHAINS = (
    *("DDPMScheduler", "DDIMScheduler", "DDPMParallelScheduler", "DDIMParallelScheduler", "PNDMScheduler", "LMSDiscreteScheduler"),
    *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler"),
    *("KDPM2AncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DPMSolverSDEScheduler"),
    *("DEISMultistepScheduler", "UniPCMultistepScheduler", "SASolverScheduler"),
)
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
VE = ("ScoreSdeVeScheduler",)
CLIPPING = ("DDPMScheduler", "DDIMScheduler", "DDPMParallelScheduler", "DDIMParallelScheduler")  # unless told not to; Heun if told so

PREDICTIONS = {"epsilon": Epsilon(), "sample": X0(), "v_prediction": V()}
LAST_BETA = 0.999  # for 1, which leaves no signal: where Nichol & Dhariwal 2021 cut the cosine's betas off


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A model's process, what it predicts, what it is told of the noise, and the range of its data.

    Args:
        sde: the process that it was trained for.
        parameterization: what it predicts.
        conditioning: its label of the noise.
        clip: largest absolute value of x0_hat, > 0; None: any.
        threshold: (quantile, largest) of `DynamicThreshold`, instead of clip.
    """

    sde: AffineSDE
    parameterization: Parameterization
    conditioning: Conditioning
    clip: float | None = None
    threshold: tuple[float, float] | None = None

    def denoiser(self, network: nn.Module, *, learns_variance: bool = False) -> Denoiser:
        """The network as a denoiser; with `learns_variance` it returns twice the channels, the prediction first."""
        parameterization = LearnedVariance(self.parameterization) if learns_variance else self.parameterization
        denoiser = NetworkDenoiser(network, self.sde, parameterization, self.conditioning)
        if self.threshold is not None:
            quantile, largest = self.threshold
            return DynamicThreshold(denoiser, quantile, largest=largest)
        return denoiser if self.clip is None else Clipped(denoiser, -self.clip, self.clip)


def read_schedule(config: Mapping[str, Any]) -> Schedule:
    """What the configuration of a scheduler says of its model.

    Args:
        config: `{"_class_name": type(scheduler).__name__, **scheduler.config}`, or the contents of a scheduler_config.json.

    Raises:
        ValueError: for a scheduler, schedule of betas, kind of prediction or option that is not supported, or a missing entry.
    """
    name = config.get("_class_name")
    flow = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    if name in FLOWS or (name in CHAINS and flow):
        return _flow(config)
    if name in VE:
        sde = VESDE(_value(config, "sigma_min"), _value(config, "sigma_max"), t_min=config.get("sampling_eps", 1e-5))
        return Schedule(sde, PlainScore(), SigmaLabel())
    if name == "TableauScheduler":
        return _ours(config)
    if name not in CHAINS:
        raise ValueError(
            f"the scheduler's class {name!r} is not among those whose model is understood: {', '.join((*CHAINS, *FLOWS, *VE))}; "
            "make a NetworkDenoiser of the network with the process that it was trained for"
        )
    return _chain(config)


def _flow(config: Mapping[str, Any]) -> Schedule:
    kind = config.get("prediction_type", "flow_prediction")
    if config.get("invert_sigmas") or kind != "flow_prediction":
        got = "invert_sigmas=True, a flow from t = 1 to 0," if config.get("invert_sigmas") else f"prediction_type={kind!r} of a flow"
        raise ValueError(f"{got} is not supported; make a NetworkDenoiser of the network with RectifiedFlow() and a label of your own")
    return Schedule(RectifiedFlow(), Flow(), TimeLabel(float(config.get("num_train_timesteps", 1000))))


def _chain(config: Mapping[str, Any]) -> Schedule:
    name, kind = config["_class_name"], config.get("prediction_type", "epsilon")
    if kind not in PREDICTIONS:
        raise ValueError(f"prediction_type must be one of {', '.join(PREDICTIONS)} or flow_prediction, got {kind!r}")
    if config.get("timestep_type", "discrete") != "discrete":
        raise ValueError(f"timestep_type={config['timestep_type']!r} is a label log(sigma)/4 and its own scaling; use EDM() and LogNoise()")
    betas = _betas(config)
    if config.get("rescale_betas_zero_snr"):
        if kind == "epsilon":
            raise ValueError(
                "rescale_betas_zero_snr=True leaves no data at t = 1, where x0_hat does not follow from epsilon; see v_prediction"
            )
        betas = _without_signal(betas)
    n = len(betas)
    clip = config.get("clip_sample", name in CLIPPING) and name in (*CLIPPING, "HeunDiscreteScheduler")
    threshold = config.get("dynamic_thresholding_ratio", 0.995), config.get("sample_max_value", 1.0)
    return Schedule(
        DDPMChain(betas),
        PREDICTIONS[kind],
        TimeLabel(float(n), -1.0),
        clip=float(config.get("clip_sample_range", 1.0)) if clip and not config.get("thresholding") else None,
        threshold=threshold if config.get("thresholding") else None,
    )


def _ours(config: Mapping[str, Any]) -> Schedule:
    from sde_diffusion.interop.diffusers.scheduler import TableauScheduler  # a subclass of diffusers' own classes

    scheduler: Any = TableauScheduler.from_config(config)
    kind = scheduler.parameterization
    return Schedule(scheduler.sde, kind.inner if kind.learns_variance else kind, scheduler.conditioning, scheduler.clip)


def _betas(config: Mapping[str, Any]) -> tuple[float, ...]:
    trained = config.get("trained_betas")
    if trained is not None:
        return tuple(map(float, trained))
    n, kind = int(_value(config, "num_train_timesteps")), _value(config, "beta_schedule")
    if kind == "squaredcos_cap_v2":
        return cosine_betas(n)
    first, last = float(_value(config, "beta_start")), float(_value(config, "beta_end"))
    if kind == "linear":
        return linear_betas(n, first, last)
    if kind == "scaled_linear":
        return tuple(root**2 for root in linear_betas(n, math.sqrt(first), math.sqrt(last)))
    if kind == "sigmoid":
        return tuple((first + (last - first) / (1 + np.exp(-np.linspace(-6, 6, n)))).tolist())
    known = "linear, scaled_linear, squaredcos_cap_v2, sigmoid"
    raise ValueError(f"beta_schedule must be one of {known}, got {kind!r}; write the betas into trained_betas")


def _without_signal(betas: tuple[float, ...]) -> tuple[float, ...]:
    """Shifted and scaled alphas, so that the first stays and the last is 0 (Lin et al. 2024, arXiv 2305.08891) but for LAST_BETA."""
    alphas = np.exp(0.5 * np.cumsum(np.log1p(-np.asarray(betas))))
    alphas = (alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])
    rescaled = 1 - (alphas[:-1] / np.append(1.0, alphas[:-2])) ** 2
    return (*rescaled.tolist(), LAST_BETA)


def _value(config: Mapping[str, Any], key: str) -> Any:
    if key not in config:
        raise ValueError(
            f"the configuration of {config.get('_class_name')} has no {key!r}, only {sorted(config)}; take it from the scheduler"
        )
    return config[key]
