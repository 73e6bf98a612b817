"""How good samples are: distances, tests and scores, each with an interval and what real data score in their place; reports of them."""

from sde_diffusion.evaluation.digits_classifier import DigitsClassifier
from sde_diffusion.evaluation.features import Classifier, FeatureExtractor, ModuleFeatures, Pixels
from sde_diffusion.evaluation.frechet import (
    Statistics,
    frechet_between,
    frechet_distance,
    frechet_estimate,
    frechet_infinity,
    real_floor,
    reference_statistics,
)
from sde_diffusion.evaluation.inception import Inception
from sde_diffusion.evaluation.inception_score import inception_score
from sde_diffusion.evaluation.kernel_distances import energy_distance, mmd
from sde_diffusion.evaluation.kid import kid, kid_subsets
from sde_diffusion.evaluation.levels import LevelLosses, level_losses
from sde_diffusion.evaluation.likelihoods import HeldOutLikelihood, held_out_likelihood
from sde_diffusion.evaluation.measure import KNOWN, measure
from sde_diffusion.evaluation.measurement import Estimate, Measurement, bootstrap, halves
from sde_diffusion.evaluation.modes import mode_counts
from sde_diffusion.evaluation.out_of_distribution import Separation, auroc, pca_error, reconstruction_error, round_trip_error
from sde_diffusion.evaluation.precision_recall import PrecisionRecall, precision_recall
from sde_diffusion.evaluation.quality import QUALITY_COLUMNS, Quality, quality, table
from sde_diffusion.evaluation.report import Report
from sde_diffusion.evaluation.shards import Shard, load_shards, read_shards, write_shards
from sde_diffusion.evaluation.transport import sliced_wasserstein, wasserstein
from sde_diffusion.evaluation.two_sample import class_histogram, one_nn_accuracy
from sde_diffusion.evaluation.two_sample_classifier import c2st

__all__ = [
    "KNOWN",
    "QUALITY_COLUMNS",
    "Classifier",
    "DigitsClassifier",
    "Estimate",
    "FeatureExtractor",
    "HeldOutLikelihood",
    "Inception",
    "LevelLosses",
    "Measurement",
    "ModuleFeatures",
    "Pixels",
    "PrecisionRecall",
    "Quality",
    "Report",
    "Separation",
    "Shard",
    "Statistics",
    "auroc",
    "bootstrap",
    "c2st",
    "class_histogram",
    "energy_distance",
    "frechet_between",
    "frechet_distance",
    "frechet_estimate",
    "frechet_infinity",
    "halves",
    "held_out_likelihood",
    "inception_score",
    "kid",
    "kid_subsets",
    "level_losses",
    "load_shards",
    "measure",
    "mmd",
    "mode_counts",
    "one_nn_accuracy",
    "pca_error",
    "precision_recall",
    "quality",
    "read_shards",
    "real_floor",
    "reconstruction_error",
    "reference_statistics",
    "round_trip_error",
    "sliced_wasserstein",
    "table",
    "wasserstein",
    "write_shards",
]
