"""NCSN (Song and Ermon 2020): a geometric ladder of noise levels, the network predicts the score.

    sde-diffusion train --config configs/ncsn_digits.py --workdir runs/ncsn_digits
    sde-diffusion evaluate --workdir runs/ncsn_digits --solver "AnnealedLangevin(steps=5)" --steps 232 --n 360

Hardware: 2 CPU cores. Duration: about 3 minutes to train. Expected: Fréchet distance 1.8 times the real-against-real floor,
1-NN accuracy 0.64; with --solver "Ancestral()" 1.2 and 0.60 (one sampling seed each).
"""

from sde_diffusion.training import default_config


def get_config():
    config = default_config()
    config.sde = "NCSNLadder(geometric_sigmas(232, 0.01, 10.0))"
    config.parameterization = "Score()"
    config.loss = "DenoisingScoreMatching(weighting=SimpleWeighting(), times=ChainTimes())"
    return config
