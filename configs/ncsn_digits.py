"""NCSN (Song and Ermon 2020): a geometric ladder of noise levels, the network predicts the score.

    sde-diffusion train --config configs/ncsn_digits.py --workdir runs/ncsn_digits
    sde-diffusion evaluate --workdir runs/ncsn_digits --solver "AnnealedLangevin(steps=5)" --steps 232 --n 360

Hardware: 2 CPU cores. Duration: about 3 minutes to train. Expected: Fréchet distance in pixels 1.4 and 1.7 times the
real-against-real floor, 1-NN accuracy 0.59 and 0.62; with --solver "Ancestral()" 1.2 and 1.6, 0.58 and 0.57 (two sampling seeds).
"""

from sde_diffusion.training import default_config


def get_config():
    config = default_config()
    config.sde = "NCSNLadder(geometric_sigmas(232, 0.01, 10.0))"
    config.parameterization = "Score()"
    config.loss = "DenoisingScoreMatching(weighting=SimpleWeighting(), times=ChainTimes())"
    return config
