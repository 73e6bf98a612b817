"""Score models of 8x8 digits trained for their likelihood (Song et al. 2021, arXiv 2101.09258), each beside one that is not.

    sde-diffusion train --config configs/likelihood_digits.py:vp --workdir runs/likelihood_digits_vp
    sde-diffusion evaluate --workdir runs/likelihood_digits_vp --solver "DDIM()" --steps 50 --n 360

    variant           process           weighting
    vp                VPSDE             likelihood, g^2
    subvp             SubVPSDE          likelihood
    ve                VESDE             likelihood
    vp_simple         VPSDE             simple, sigma^2
    subvp_simple      SubVPSDE          simple
    ve_simple         VESDE             simple

Digits are dequantised uniformly: a density of theirs bounds the probability of the 17 grey values. Times start where sigma/alpha is 1e-3,
or 0.01, the least noise of VESDE, and so does the likelihood. Under the likelihood's weighting they are uniform in the log-SNR, which
leaves of weight and density a constant, 24 for VP: hence the larger clip.

Hardware: 2 CPU cores. Duration: about that of configs/vp_digits.py, whose network it has. Expected: bits per dimension of held-out
digits by the probability flow, 95 % intervals of ±0.022 (`python benchmarks/likelihood_digits.py runs/likelihood_digits_vp`):
vp 1.81, subvp 1.81, ve 1.79, vp_simple 1.89, subvp_simple 1.86, ve_simple 1.79.
"""

from sde_diffusion.training import default_config

PROCESSES = {"vp": ("VPSDE()", 1e-5), "subvp": ("SubVPSDE()", 0.0062), "ve": ("VESDE(sigma_max=10.0)", 1e-5)}
VARIANTS = (*PROCESSES, *(f"{process}_simple" for process in PROCESSES))


def get_config(variant="vp"):
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; write likelihood_digits.py:vp, or one of {', '.join(VARIANTS)}")
    process, _, simple = variant.partition("_")
    sde, t_min = PROCESSES[process]
    config = default_config()
    config.data = "Digits(dequantize=True)"
    config.sde = sde
    config.loss = f"DenoisingScoreMatching(weighting=LikelihoodWeighting(), times=LikelihoodTimes({t_min}), unbiased=True)"
    config.clip = 24.0
    if simple:
        config.loss = f"DenoisingScoreMatching(weighting=SimpleWeighting(), times=UniformTimes({t_min}))"
        config.clip = 1.0
    return config
