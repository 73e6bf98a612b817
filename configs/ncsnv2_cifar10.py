"""NCSNv2 on CIFAR-10 (Song & Ermon 2020, arXiv 2006.09011): 232 noise levels, an unconditional network divided by sigma, averaged weights.

    sde-diffusion train --config configs/ncsnv2_cifar10.py --workdir runs/ncsnv2_cifar10
    sde-diffusion evaluate --workdir runs/ncsnv2_cifar10 --solver "AnnealedLangevin(epsilon=2.48e-5, steps=5)" --steps 232 --n 50000 \
        --device cuda

Hardware: a GPU. Duration: the paper names none. Expected: FID 10.87, inception score 8.40 (table 1). Not trained here.

The authors' images are in [0, 1]; in [-1, 1] sigma is twice theirs, 0.02 to 100, and the step of their sampler, 6.2e-6, four times. Their
loss is half the sum over the 3072 values, so Adam's eps is divided by 1536.
"""

from sde_diffusion.training import default_config


def get_config():
    config = default_config()
    config.sde = "NCSNLadder(geometric_sigmas(232, 0.02, 100.0))"
    config.parameterization = "Score()"
    config.network = "NCSNv2(channels=3, width=128, depth=4, centered=True)"
    config.loss = "DenoisingScoreMatching(weighting=SimpleWeighting(), times=ChainTimes(), stratified=False)"
    config.data = "CIFAR10('data/cifar-10-batches-bin', flip=True)"
    config.batch_size = 128
    config.steps = 300_000
    config.lr = 1e-4
    config.eps = 1e-8 / 1536
    config.warmup = 0
    config.clip = float("inf")
    config.ema = (0.999,)
    config.checkpoint_every = 5000
    config.keep_every = 50_000
    return config
