"""NCSN on CIFAR-10 (Song & Ermon 2019, arXiv 1907.05600): 10 noise levels, a norm for each of them, the network predicts the score.

    sde-diffusion train --config configs/ncsn_cifar10.py --workdir runs/ncsn_cifar10
    sde-diffusion evaluate --workdir runs/ncsn_cifar10 --solver "AnnealedLangevin(epsilon=8e-5, steps=100)" --steps 10 --n 50000 \
        --device cuda

Hardware: a GPU. Duration: the paper names none. Expected: FID 25.32, inception score 8.87 (table 1, the last weights). Not trained here.

The authors' images are in [0, 1]; in [-1, 1] sigma is twice theirs, 0.02 to 2, and the step of their sampler, 2e-5, four times. Theirs
leaves the last noise on, AnnealedLangevin ends with x0_hat. Their loss is half the sum over the 3072 values, so Adam's eps is divided by
1536.
"""

from sde_diffusion.training import default_config


def get_config():
    config = default_config()
    config.sde = "NCSNLadder(geometric_sigmas(10, 0.02, 2.0))"
    config.parameterization = "PlainScore()"
    config.conditioning = "TimeLabel(-10, 10, whole=True)"
    config.network = "NCSN(channels=3, width=128, levels=10, centered=True)"
    config.loss = "DenoisingScoreMatching(weighting=SimpleWeighting(), times=ChainTimes(), stratified=False)"
    config.data = "CIFAR10('data/cifar-10-batches-bin', flip=True, dequantize=True)"
    config.batch_size = 128
    config.steps = 200_000
    config.lr = 1e-3
    config.eps = 1e-8 / 1536
    config.warmup = 0
    config.clip = float("inf")
    config.ema = (0.0,)  # the weights themselves
    config.checkpoint_every = 5000
    config.keep_every = 50_000
    return config
