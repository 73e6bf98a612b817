"""The names of score_sde_pytorch (yang-song/score_sde_pytorch) over this package: a script written for it runs by changing its imports."""

from sde_diffusion.interop.score_sde.base import SDE
from sde_diffusion.interop.score_sde.checkpoints import load_score_sde, unet_config
from sde_diffusion.interop.score_sde.likelihood import get_likelihood_fn
from sde_diffusion.interop.score_sde.losses import get_ddpm_loss_fn, get_sde_loss_fn, get_smld_loss_fn, get_step_fn
from sde_diffusion.interop.score_sde.models import denoiser, from_flattened_numpy, get_model_fn, get_score_fn, to_flattened_numpy
from sde_diffusion.interop.score_sde.sampling import (
    AncestralSamplingPredictor,
    AnnealedLangevinDynamics,
    Corrector,
    EulerMaruyamaPredictor,
    LangevinCorrector,
    NoneCorrector,
    NonePredictor,
    Predictor,
    ReverseDiffusionPredictor,
    get_corrector,
    get_ode_sampler,
    get_pc_sampler,
    get_predictor,
    get_sampling_fn,
    register_corrector,
    register_predictor,
    shared_corrector_update_fn,
    shared_predictor_update_fn,
)
from sde_diffusion.interop.score_sde.sdes import VESDE, VPSDE, subVPSDE

__all__ = [
    "SDE",
    "VESDE",
    "VPSDE",
    "AncestralSamplingPredictor",
    "AnnealedLangevinDynamics",
    "Corrector",
    "EulerMaruyamaPredictor",
    "LangevinCorrector",
    "NoneCorrector",
    "NonePredictor",
    "Predictor",
    "ReverseDiffusionPredictor",
    "denoiser",
    "from_flattened_numpy",
    "get_corrector",
    "get_ddpm_loss_fn",
    "get_likelihood_fn",
    "get_model_fn",
    "get_ode_sampler",
    "get_pc_sampler",
    "get_predictor",
    "get_sampling_fn",
    "get_score_fn",
    "get_sde_loss_fn",
    "get_smld_loss_fn",
    "get_step_fn",
    "load_score_sde",
    "register_corrector",
    "register_predictor",
    "shared_corrector_update_fn",
    "shared_predictor_update_fn",
    "subVPSDE",
    "to_flattened_numpy",
    "unet_config",
]
