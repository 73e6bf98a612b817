"""Log-likelihoods by the probability flow, bits per dimension, bounds and codes."""

from sde_diffusion.likelihood.bits import BitsPerDim, bits_per_dim
from sde_diffusion.likelihood.bounds import Bound, chain_bound, continuous_bound
from sde_diffusion.likelihood.codes import decode, encode, interpolate
from sde_diffusion.likelihood.dequantization import Quantization, TruncatedNormal, Uniform
from sde_diffusion.likelihood.flow import LogLikelihood, log_likelihood
from sde_diffusion.likelihood.importance import importance_weighted_bound

__all__ = [
    "BitsPerDim",
    "Bound",
    "LogLikelihood",
    "Quantization",
    "TruncatedNormal",
    "Uniform",
    "bits_per_dim",
    "chain_bound",
    "continuous_bound",
    "decode",
    "encode",
    "importance_weighted_bound",
    "interpolate",
    "log_likelihood",
]
