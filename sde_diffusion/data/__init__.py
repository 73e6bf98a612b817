"""Data sets: two parts, each of which gives random samples, and batches that the step alone determines."""

from sde_diffusion.data.arrays import Arrays, Table
from sde_diffusion.data.base import Batch, Batches, Data, Samples, Source
from sde_diffusion.data.cifar import CIFAR10, MNIST
from sde_diffusion.data.embedded import BreastCancer, Digits, Patches, Signals
from sde_diffusion.data.huggingface import HubDataset
from sde_diffusion.data.images import ImageFolder
from sde_diffusion.data.loading import NAMED, SOURCES, load, parse
from sde_diffusion.data.maps import MapSamples
from sde_diffusion.data.moments import Moments, moments
from sde_diffusion.data.pixels import Pixels
from sde_diffusion.data.planar import Checkerboard, Moons, Pinwheel, Ring, Spirals, SwissRoll
from sde_diffusion.data.streams import StreamSamples
from sde_diffusion.data.tensors import TensorSamples

__all__ = [
    "CIFAR10",
    "MNIST",
    "NAMED",
    "SOURCES",
    "Arrays",
    "Batch",
    "Batches",
    "BreastCancer",
    "Checkerboard",
    "Data",
    "Digits",
    "HubDataset",
    "ImageFolder",
    "MapSamples",
    "Moments",
    "Moons",
    "Patches",
    "Pinwheel",
    "Pixels",
    "Ring",
    "Samples",
    "Signals",
    "Source",
    "Spirals",
    "StreamSamples",
    "SwissRoll",
    "Table",
    "TensorSamples",
    "load",
    "moments",
    "parse",
]
