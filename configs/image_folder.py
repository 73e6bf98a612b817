"""A template for your own images: a folder of pictures of any size, with one folder per class or none.

    sde-diffusion train --config configs/image_folder.py --workdir runs/photographs \
        --config.data="ImageFolder('photographs', size=64, flip=True)"
    sde-diffusion evaluate --workdir runs/photographs --solver auto --nfe 35 --n 5000 --device cuda

Hardware: a GPU. Duration: not measured, as no images come with it. Expected: look at the pictures in runs/photographs/samples, and at the
loss by noise level in log.jsonl.
"""

from sde_diffusion.training import default_config


def get_config():
    config = default_config()
    config.data = "ImageFolder('photographs', size=64, flip=True)"  # a folder; images are cropped to squares of this size
    config.conditional = False  # True: one class per folder; then also classes=... in the network and label_dropout=0.1
    # Channels are those of the images, sides must be divisible by 2^(levels - 1): 64 -> 32 -> 16 -> 8, attention at 16 and 8
    config.network = (
        "UNet(UNetConfig(channels=3, width=128, multipliers=(1, 2, 2, 2), blocks=2, slim=False, attention=(2, 3), head_channels=64,"
        " dropout=0.1))"
    )
    config.sde = "EDMSDE()"
    config.parameterization = "EDM(sigma_data)"  # sigma_data: the standard deviation of your images
    config.loss = "DenoisingScoreMatching(weighting=EDMWeighting(sigma_data), times=LogNormalTimes())"
    config.batch_size = 256  # less memory: accumulate=4 takes it in four parts; recomputing activations: checkpointing=True in the network
    config.workers = 8  # processes that read and scale images
    config.steps = 300_000
    config.lr = 2e-4
    config.warmup = 5000
    config.schedule = "inverse_sqrt"  # reference step: warmup
    config.ema = (0.9999,)
    config.ema_power = (0.05, 0.1)  # from whose snapshots the best width is found afterwards
    config.snapshot_every = 10_000
    config.precision = "bfloat16"  # float32 on the CPU and on GPUs older than Ampere
    config.channels_last = True
    config.tf32 = True
    config.checkpoint_every = 5000
    config.sample_every = 5000
    return config
