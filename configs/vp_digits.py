"""The variance-preserving SDE on 8x8 digits: the quickstart's run.

    sde-diffusion train --config configs/vp_digits.py --workdir runs/vp_digits
    sde-diffusion evaluate --workdir runs/vp_digits --solver "DDIM()" --steps 50 --n 720

Hardware: 2 CPU cores. Duration: about 3 minutes to train. Expected: Fréchet distance 1.2 to 1.4 times the real-against-real
floor, 1-NN accuracy 0.54 to 0.62 (five sampling seeds). With --config.steps=5200 --config.schedule=cosine and --solver auto --nfe 20,
after 10 minutes of CPU time on one thread, 1.08 to 1.19 and 0.54 to 0.58 (three sampling seeds; docs/learning_curve.png).
"""

from sde_diffusion.training import default_config


def get_config():
    config = default_config()
    config.sde = "VPSDE()"
    return config
