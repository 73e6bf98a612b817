"""DDPM on CIFAR-10 (Ho et al. 2020, arXiv 2006.11239): the chain of 1000 betas, the network predicts the noise, L_simple.

    sde-diffusion train --config configs/ddpm_cifar10.py --workdir runs/ddpm_cifar10
    sde-diffusion evaluate --workdir runs/ddpm_cifar10 --solver 'Ancestral("forward")' --steps 1000 --n 50000 --device cuda

Hardware: a GPU. Duration: 10.6 hours on a TPU v3-8 (the paper, appendix B). Expected: FID 3.17 (table 1, against the training set). Not
trained here.
"""

from sde_diffusion.training import default_config


def get_config():
    config = default_config()
    config.sde = "DDPMChain(linear_betas(1000))"
    config.parameterization = "Epsilon()"
    config.conditioning = "TimeLabel(1000, -1)"
    config.network = "ddpm_cifar10()"
    config.loss = "DenoisingScoreMatching(weighting=SimpleWeighting(), times=ChainTimes(), stratified=False)"
    config.data = "CIFAR10('data/cifar-10-batches-bin', flip=True)"
    config.batch_size = 128
    config.steps = 800_000
    config.lr = 2e-4
    config.warmup = 5000
    config.ema = (0.9999,)
    config.checkpoint_every = 10_000
    config.keep_every = 50_000
    return config
