"""A table of 30 standardised columns, scikit-learn's breast cancer cases: a residual perceptron. Give your own by config.data=cases.csv.

    sde-diffusion train --config configs/table.py --workdir runs/table
    sde-diffusion evaluate --workdir runs/table --solver auto --nfe 20 --n 455

Hardware: 1 CPU core. Duration: DURATION. Expected: EXPECTED
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
