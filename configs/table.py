"""A table of 30 standardised columns, scikit-learn's breast cancer cases: a residual perceptron. Give your own by config.data=cases.csv.

    sde-diffusion train --config configs/table.py --workdir runs/table
    sde-diffusion evaluate --workdir runs/table --solver auto --nfe 20 --n 455

Hardware: 1 CPU core. Duration: 30 seconds of CPU time. Expected: 2-Wasserstein distance 0.99 times the real-against-real floor,
1-NN accuracy 0.50, classifier two-sample accuracy 0.51 (one sampling seed).
"""

from sde_diffusion.training import default_config


def get_config():
    config = default_config()
    config.data = "table"
    config.network = "MLP(dim=30, width=128, depth=3)"  # dim: the number of columns
    config.parameterization = "EDM(sigma_data)"
    config.loss = "DenoisingScoreMatching(weighting=EDMWeighting(sigma_data), times=LogNormalTimes())"
    config.schedule = "cosine"
    return config
