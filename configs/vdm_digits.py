"""A variational diffusion model (Kingma et al. 2021, arXiv 2107.00630) on 8x8 digits: the bound is minimised, and the schedule learned.

    sde-diffusion train --config configs/vdm_digits.py:learned --workdir runs/vdm_digits
    sde-diffusion evaluate --workdir runs/vdm_digits --solver "Ancestral()" --steps 100 --n 360

    variant    the schedule gamma(t)
    learned    its interior lowers the variance of the loss, its ends the bound
    interior   its ends stay where they are
    fixed      a straight line

The loss is the bound itself in nats per dimension, on the 17 grey values (width 2/16). As they are that far apart, noise of e^-4 tells them
apart: the schedule starts there, not at the paper's e^-6.65 for 256 values.

Hardware: 2 CPU cores. Duration: about that of configs/vp_digits.py, whose network it has. Expected: for "learned" a bound of 2.00 bits per
dimension of held-out digits (standard error 0.02), log(alpha/sigma) from 3.55 to -2.66, and a sixth of the variance that the loss has
with the straight line between the same ends (0.23 against 1.45 squared nats), both by VDMLoss with four draws of each;
Fréchet distance in pixels 1.3 times the real-against-real floor, 1-NN accuracy 0.60 (one run, one sampling seed).
The others are not measured yet.
"""

from sde_diffusion.training import default_config

VARIANTS = {
    "learned": "LearnedVPSDE(4.0, -2.5)",
    "interior": "LearnedVPSDE(4.0, -2.5, learn_endpoints=False)",
    "fixed": f"TabulatedVPSDE({tuple(4.0 - 1.625 * i for i in range(5))})",
}


def get_config(variant="learned"):
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; write vdm_digits.py:learned, or one of {', '.join(VARIANTS)}")
    config = default_config()
    config.sde = VARIANTS[variant]
    config.loss = "VDMLoss(width=0.125)"
    return config
