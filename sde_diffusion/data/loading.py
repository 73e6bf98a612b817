"""From what a configuration says to a data set: a name, a path, an expression, or the object itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sde_diffusion.data import arrays
from sde_diffusion.data.arrays import Arrays, Table
from sde_diffusion.data.base import Data, Source
from sde_diffusion.data.cifar import CIFAR10, MNIST
from sde_diffusion.data.embedded import BreastCancer, Digits, Patches, Signals
from sde_diffusion.data.huggingface import FORMATS, HubDataset
from sde_diffusion.data.images import ImageFolder
from sde_diffusion.data.maps import MapSamples
from sde_diffusion.data.order import HELD_OUT, split
from sde_diffusion.data.planar import Checkerboard, Moons, Pinwheel, Ring, Spirals, SwissRoll
from sde_diffusion.data.streams import StreamSamples
from sde_diffusion.expressions import build

NAMED: dict[str, type[Source]] = {
    "digits": Digits,
    "patches": Patches,
    "moons": Moons,
    "ring": Ring,
    "checkerboard": Checkerboard,
    "swiss_roll": SwissRoll,
    "spirals": Spirals,
    "pinwheel": Pinwheel,
    "signals": Signals,
    "table": BreastCancer,
}
FILES: tuple[type[Source], ...] = (Arrays, Table, ImageFolder, HubDataset, CIFAR10, MNIST)
SOURCES: dict[str, type[Source]] = {source.__name__: source for source in (*NAMED.values(), *FILES)}
EVERY = round(1 / HELD_OUT)  # one sample of so many of a stream is held out


def load(source: str | Path | Data | Source | Any) -> Data:
    """The data set that is meant.

    Args:
        source: a name such as `"digits"`; an expression such as `"Digits(dequantize=True)"`; the path of a .npy, .npz, .pt or .csv file,
            of parquet or arrow files, of a folder of them, or of a folder of images; a Data or a Source; a torch data set, map-style or
            iterable, of which a fixed fifth is held out.

    Raises:
        ValueError: for unknown names, wrong shapes and ranges, and NaNs.
        FileNotFoundError: for a missing file.
    """
    if isinstance(source, Data):
        return source
    if isinstance(source, Source):
        return source.load()
    if isinstance(source, str | Path):
        return parse(source).load()
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        rows, rest = split(len(source))
        return Data(MapSamples(source, rows=rows), MapSamples(source, rows=rest), type(source).__name__)
    if hasattr(source, "num_shards"):
        raise ValueError("a stream of Hugging Face cannot be split; give Data(StreamSamples(train), StreamSamples(test), name='...')")
    if hasattr(source, "__iter__"):
        classes = len(getattr(source, "classes", ()))
        train, held_out = (StreamSamples(_Share(source, part), classes=classes) for part in (False, True))
        return Data(train, held_out, type(source).__name__)
    raise ValueError(f"cannot read data from {type(source).__name__}; give a name, a path, an expression or a torch data set")


def parse(text: str | Path) -> Source:
    """The description that a name, a path or an expression means; its repr is that expression.

    Raises:
        ValueError: for unknown names.
        FileNotFoundError: for a missing file.
    """
    name, path = str(text), Path(text)
    if name in NAMED:
        return NAMED[name]()
    if "(" in name and not path.exists():
        source = build(name, SOURCES)
        if not isinstance(source, Source):
            raise ValueError(f"{name!r} is not a data set; write it like Digits(flip=True)")
        return source
    if path.is_dir():
        return _folder(path)
    if path.suffix in arrays.SUFFIXES:
        return Arrays(name)
    if path.suffix == ".csv":
        return Table(name)
    if path.suffix in FORMATS:
        return HubDataset(name)
    raise ValueError(
        f"no data set {name!r}; use one of {', '.join(NAMED)}, an expression of {', '.join(SOURCES)} such as Digits(flip=True),"
        " the path of a .npy, .npz, .pt, .csv or .parquet file, or a folder of images"
    )


def _folder(path: Path) -> Source:
    """A folder of the known kinds by what lies in it, else one of images."""
    if (path / "data_batch_1.bin").exists() or (path / "cifar-10-batches-bin").is_dir():
        return CIFAR10(str(path))
    if any(path.glob("train-images-idx3-ubyte*")):
        return MNIST(str(path))
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists() or any(path.rglob("*.parquet")):
        return HubDataset(str(path))
    return ImageFolder(str(path))


class _Share:
    """Every fifth sample of a stream, or the others."""

    def __init__(self, dataset: Iterable[Any], held_out: bool) -> None:
        self.dataset, self.held_out = dataset, held_out

    def __iter__(self) -> Iterator[Any]:
        return (sample for k, sample in enumerate(self.dataset) if (k % EVERY == EVERY - 1) == self.held_out)
