"""How good samples are: Fréchet distance over its floor, two-sample tests, and a table of them."""

from sde_diffusion.evaluation.frechet import frechet_between, frechet_distance, real_floor
from sde_diffusion.evaluation.report import QUALITY_COLUMNS, Quality, quality, table
from sde_diffusion.evaluation.two_sample import class_histogram, one_nn_accuracy

__all__ = [
    "QUALITY_COLUMNS",
    "Quality",
    "class_histogram",
    "frechet_between",
    "frechet_distance",
    "one_nn_accuracy",
    "quality",
    "real_floor",
    "table",
]
