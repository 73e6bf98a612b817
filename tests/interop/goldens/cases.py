"""The small configurations of score_sde_pytorch whose networks unets.safetensors has the answers of.

They are its configuration files with 32 or fewer channels in the first level, small images and one or two blocks; every other setting is as
in the files. The labels are what its `get_score_fn` hands to the network.
"""

from __future__ import annotations

from ml_collections import ConfigDict

_NCSNPP = {"name": "ncsnpp", "resblock_type": "biggan", "skip_rescale": True, "nf": 16, "progressive": "none", "progressive_input": "none"}
_VE = {"scale_by_sigma": True, "embedding_type": "fourier", "fir": True, "progressive_input": "residual"}
_VP = {"scale_by_sigma": False, "embedding_type": "positional", "fir": False}
_HIGH = {"progressive": "output_skip", "progressive_input": "input_skip", "sigma_max": 348.0, "num_scales": 2000}

# name: (sde, continuous, centered, model)
CASES = {
    "vp/ddpm/cifar10": ("vpsde", False, True, {"name": "ddpm"}),
    "vp/ddpm/cifar10_continuous": ("vpsde", True, True, {"name": "ddpm"}),
    "vp/ddpm/church": ("vpsde", False, True, {"name": "ddpm", "ch_mult": (1, 1, 2), "dropout": 0.0}),
    "subvp/cifar10_ddpm_continuous": ("subvpsde", True, True, {"name": "ddpm"}),
    "ve/cifar10_ddpm": ("vesde", False, False, {"name": "ddpm", "scale_by_sigma": True}),
    "vp/cifar10_ddpmpp": ("vpsde", False, True, _NCSNPP | _VP),
    "vp/cifar10_ddpmpp_continuous": ("vpsde", True, True, _NCSNPP | _VP | {"num_res_blocks": 2}),
    "subvp/cifar10_ddpmpp_continuous": ("subvpsde", True, True, _NCSNPP | _VP),
    "vp/cifar10_ncsnpp": ("vpsde", False, True, _NCSNPP | _VP | {"fir": True, "progressive_input": "residual"}),
    "vp/cifar10_ncsnpp_continuous": ("vpsde", True, True, _NCSNPP | _VP | {"fir": True, "progressive_input": "residual"}),
    "subvp/cifar10_ncsnpp_continuous": ("subvpsde", True, True, _NCSNPP | _VP | {"fir": True, "progressive_input": "residual"}),
    "ve/cifar10_ncsnpp": ("vesde", False, False, _NCSNPP | _VE | {"embedding_type": "positional"}),
    "ve/cifar10_ncsnpp_continuous": ("vesde", True, False, _NCSNPP | _VE),
    "ve/cifar10_ncsnpp_deep_continuous": ("vesde", True, False, _NCSNPP | _VE | {"num_res_blocks": 3}),
    "ve/celebahq_256_ncsnpp_continuous": ("vesde", True, False, _NCSNPP | _VE | _HIGH),
    "ve/ffhq_ncsnpp_continuous": ("vesde", True, False, _NCSNPP | _VE | _HIGH | {"ch_mult": (1, 2, 4), "num_res_blocks": 1}),
    # settings that the files leave at one value, at the other
    "ddpm blocks, plain resampling": (
        "vpsde",
        True,
        True,
        _NCSNPP | _VP | {"resblock_type": "ddpm", "resamp_with_conv": False},
    ),
    "ddpm blocks": ("vpsde", True, True, _NCSNPP | _VP | {"resblock_type": "ddpm", "skip_rescale": False}),
    "concatenated input": ("vesde", True, False, _NCSNPP | _VE | _HIGH | {"progressive_combine": "cat"}),
    "residual output": ("vpsde", True, True, _NCSNPP | _VP | {"progressive": "residual", "progressive_input": "residual"}),
}

LABELS = {
    name: [0.03, 7.5] if sde == "vesde" and continuous else [3, 700] if not continuous else [29.97, 812.25]
    for name, (sde, continuous, _, _) in CASES.items()
}


def config(name: str) -> ConfigDict:
    sde, continuous, centered, model = CASES[name]
    defaults = {
        "nf": 32,
        "ch_mult": (1, 2),
        "num_res_blocks": 1,
        "attn_resolutions": (4,),
        "dropout": 0.1,
        "resamp_with_conv": True,
        "conditional": True,
        "nonlinearity": "swish",
        "normalization": "GroupNorm",
        "scale_by_sigma": False,
        "embedding_type": "fourier",
        "fir": False,
        "fir_kernel": [1, 3, 3, 1],
        "progressive_combine": "sum",
        "attention_type": "ddpm",
        "init_scale": 0.0,
        "fourier_scale": 16,
        "conv_size": 3,
        "sigma_min": 0.01,
        "sigma_max": 50.0,
        "num_scales": 1000,
        "beta_min": 0.1,
        "beta_max": 20.0,
    }
    data = {"image_size": 8, "num_channels": 3, "centered": centered}
    return ConfigDict({"data": data, "model": defaults | model, "training": {"sde": sde, "continuous": continuous}})
