"""Improved DDPM (Nichol & Dhariwal 2021, arXiv 2102.09672) on 8x8 digits: the cosine chain, of 200 steps, and a learned variance.

    sde-diffusion train --config configs/improved_ddpm_digits.py:hybrid --workdir runs/improved_ddpm_digits
    sde-diffusion evaluate --workdir runs/improved_ddpm_digits --solver "Ancestral('learned')" --steps 50 --n 360

    variant    the loss
    hybrid     L_hybrid: noise prediction, and 0.001 of the bound, by which the variance is learned
    vlb        the bound alone, at times that are drawn the more often the larger its terms are there (section 3.3)

The data are the 17 grey values as they are, of width 2/16, whose probabilities the bound is on.

Hardware: 2 CPU cores. Duration: about that of configs/vp_digits.py, whose network it has. Expected:
for "hybrid" a bound of 2.56 bits per dimension of held-out digits (95 % interval 0.04; benchmarks/likelihood_digits.py), one run. "vlb" was
not trained to its end.
"""

from sde_diffusion.training import default_config

CHAIN, DECODER = "DDPMChain(cosine_betas(200))", "DiscretizedDecoder(0.125)"
VARIANTS = {
    "hybrid": f"HybridLoss(decoder={DECODER})",
    "vlb": f"VariationalLoss(decoder={DECODER}, times=LossSecondMomentTimes({CHAIN}))",
}


def get_config(variant="hybrid"):
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; write improved_ddpm_digits.py:hybrid, or one of {', '.join(VARIANTS)}")
    config = default_config()
    config.sde = CHAIN
    config.parameterization = "LearnedVariance(Epsilon())"
    config.network = "UNet(UNetConfig(channels=1, width=32, multipliers=(1, 2), learned_variance=True))"
    config.loss = VARIANTS[variant]
    return config
