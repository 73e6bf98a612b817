"""Other people's models in, ours out.  `interop.diffusers` and `interop.score_sde` are imported by their names."""

from sde_diffusion.interop.functions import from_denoised, from_prediction
from sde_diffusion.interop.programs import export, load_exported

__all__ = ["export", "from_denoised", "from_prediction", "load_exported"]
