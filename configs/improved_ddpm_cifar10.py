"""Improved DDPM on CIFAR-10 (Nichol & Dhariwal 2021, arXiv 2102.09672): the cosine chain of 4000 steps, a network with room for a variance.

    sde-diffusion train --config configs/improved_ddpm_cifar10.py --workdir runs/improved_ddpm_cifar10
    sde-diffusion evaluate --workdir runs/improved_ddpm_cifar10 --solver "Ancestral()" --steps 4000 --n 50000 --device cuda

Only L_simple is minimised, which trains the mean: the variance channels get no gradient, so sample with a fixed variance, not with
Ancestral("learned"). L_hybrid adds 0.001 of the variational bound to it. As in the authors' code the label is the step times 1000/4000
(its rescale_timesteps), and images are not flipped.

Hardware: a GPU. Duration: the paper names none for this run. Expected: FID 2.90 after 500 000 steps with L_simple (and 3.19 with L_hybrid;
the paper's ablation on CIFAR-10). Not trained here.
"""

from sde_diffusion.training import default_config


def get_config():
    config = default_config()
    config.sde = "DDPMChain(cosine_betas(4000))"
    config.parameterization = "LearnedVariance(Epsilon())"
    config.conditioning = "TimeLabel(1000, -0.25)"
    config.network = "improved_ddpm_cifar10()"
    config.loss = "DenoisingScoreMatching(weighting=SimpleWeighting(), times=ChainTimes(), stratified=False)"
    config.data = "CIFAR10('data/cifar-10-batches-bin')"
    config.batch_size = 128
    config.steps = 500_000
    config.optimizer = "adamw"
    config.lr = 1e-4
    config.warmup = 0
    config.clip = float("inf")
    config.ema = (0.9999,)
    config.checkpoint_every = 10_000
    config.keep_every = 50_000
    return config
