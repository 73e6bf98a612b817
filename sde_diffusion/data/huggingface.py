"""Data sets of the Hugging Face Hub, and parquet and arrow files, through `datasets`."""

from __future__ import annotations

import glob
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sde_diffusion.data.arrays import standardised
from sde_diffusion.data.base import Data, Samples, Source
from sde_diffusion.data.images import MEMORY, in_memory_if_small
from sde_diffusion.data.maps import MapSamples
from sde_diffusion.data.order import split
from sde_diffusion.data.pictures import check_image_options, image_to_bytes
from sde_diffusion.data.streams import BUFFER, StreamSamples

FORMATS = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".json": "json", ".jsonl": "json"}


@dataclass(frozen=True)
class HubDataset(Source):
    """A data set of images, or of columns of numbers, that `datasets` can load.

    Args:
        name: on the Hub, such as "uoft-cs/cifar10"; or a folder written by save_to_disk; or a folder, file or glob of
            parquet, arrow, csv or json files.
        config: name of the data set's configuration, where it has several.
        split: to train on, such as "train" or "train[:80%]".
        held_out: split that is never trained on, such as "test"; None: a fixed fifth of the other. A stream must name one.
        image: column of the images.
        label: column of the class labels; None: there are none.
        columns: columns of numbers to use in place of images; they are standardised by their training mean and standard deviation.
        streaming: read while training, without downloading first.
        buffer: samples that a stream shuffles at a time.
        size: side in pixels: the central square is resized to it; None: all images have the same size already.
        channels: 3 (RGB) or 1 (grey).
        flip: random horizontal flips.
        dequantize: uniform dequantisation, which likelihoods need.
        memory: bytes up to which the decoded images are kept in memory; beyond, they are decoded when they are needed.
    """

    name: str
    _: KW_ONLY
    config: str | None = None
    split: str = "train"
    held_out: str | None = None
    image: str = "image"
    label: str | None = None
    columns: tuple[str, ...] = ()
    streaming: bool = False
    buffer: int = BUFFER
    size: int | None = None
    channels: int = 3
    flip: bool = False
    dequantize: bool = False
    memory: int = MEMORY

    def __post_init__(self) -> None:
        check_image_options(self.size, self.channels)
        object.__setattr__(self, "columns", tuple(self.columns))
        if self.streaming and self.held_out is None:
            raise ValueError("a stream cannot be split while it is read; name a split that is never trained on, say held_out='test'")
        if self.columns and (self.streaming or self.flip or self.dequantize or self.held_out is not None):
            raise ValueError("columns= reads a whole table and splits it; leave out streaming, held_out, flip and dequantize")

    def load(self) -> Data:
        train = self._rows(self.split)
        wanted = [*(self.columns or (self.image,)), *([] if self.label is None else [self.label])]
        known = train.column_names
        missing = [] if known is None else [column for column in wanted if column not in known]
        if missing:
            choice = "name those to use by image=, or columns=, and label="
            raise ValueError(f"{self.name} has no column {missing[0]!r}; its columns are {', '.join(known)}; {choice}")
        if self.columns:
            return self._table(train)
        classes, read = self._labels(train)
        parts = [train] if self.held_out is None else [train, self._rows(self.held_out)]
        if self.streaming:
            first, second = (self._stream(part, classes, read, flip) for part, flip in zip(parts, (self.flip, False), strict=True))
        else:
            views = [_Rows(part.select_columns(wanted), read) for part in parts]
            rows: tuple[Tensor | None, Tensor | None] = split(len(train)) if self.held_out is None else (None, None)
            first = self._samples(views[0], rows[0], classes, self.flip)
            second = self._samples(views[-1], rows[1], classes, False)
        return Data(first, second, self.name)

    def _rows(self, part: str) -> Any:
        """A split, as `datasets` gives it."""
        datasets = _datasets()
        path = Path(self.name)
        try:
            if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
                content = datasets.load_from_disk(self.name)
                if isinstance(content, datasets.DatasetDict):
                    if part not in content:
                        raise ValueError(f"{self.name} has no split {part!r}; its splits are {', '.join(content)}")
                    content = content[part]
                return content.to_iterable_dataset() if self.streaming else content
            files = _files(self.name)
            if not files:
                return datasets.load_dataset(self.name, self.config, split=part, streaming=self.streaming)
            return datasets.load_dataset(
                FORMATS[Path(files[0]).suffix],
                data_files={part.split("[")[0]: self._files_of(part, files)},
                split=part,
                streaming=self.streaming,
            )
        except (datasets.exceptions.DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
            raise FileNotFoundError(
                f"no data set {self.name!r} on this machine or within reach on the Hub ({type(error).__name__}: {error});"
                " check the name and the network, or give a local folder or parquet file"
            ) from error

    def _files_of(self, part: str, files: list[str]) -> list[str]:
        """The files of a split: those named after it, as is or by their folder; all of them if there is but one split."""
        base = part.split("[")[0]
        named = [file for file in files if Path(file).name.startswith(base) or Path(file).parent.name == base]
        if not named and self.held_out is not None:  # all files would train on what is held out
            names = ", ".join(Path(file).name for file in files[:5])
            raise ValueError(
                f"no file of {self.name} is named after the split {base!r} ({names}); rename the files like {base}-0{Path(files[0]).suffix}"
            )
        return named or files

    def _labels(self, rows: Any) -> tuple[int | None, Callable[[Any], Any]]:
        """The number of classes, and what makes (x, label) of a row."""
        if self.label is None:
            return None, _Decode(self.image, None, None, self.size, self.channels)
        feature = None if rows.features is None else rows.features[self.label]
        names = getattr(feature, "names", None)
        if names is not None:
            return len(names), _Decode(self.image, self.label, None, self.size, self.channels)
        if self.streaming:
            raise ValueError(
                f"the column {self.label!r} of {self.name} does not say its classes, and a stream cannot be searched; leave out label="
            )
        kinds = sorted(set(rows[self.label]))
        return len(kinds), _Decode(self.image, self.label, {kind: k for k, kind in enumerate(kinds)}, self.size, self.channels)

    def _samples(self, rows: _Rows, part: Tensor | None, classes: int | None, flip: bool) -> Samples:
        lazy = MapSamples(rows, rows=part, classes=classes, flip=flip, dequantize=self.dequantize, pure=True)
        return in_memory_if_small(lazy, self.memory)

    def _stream(self, rows: Any, classes: int | None, read: Callable[[Any], Any], flip: bool) -> Samples:
        return StreamSamples(rows, classes=classes, buffer=self.buffer, transform=read, flip=flip, dequantize=self.dequantize)

    def _table(self, rows: Any) -> Data:
        words = None if self.label is None else tuple(rows[self.label])
        return standardised(self.name, {column: tuple(rows[column]) for column in self.columns}, words)


@dataclass(frozen=True)
class _Decode:
    """Makes (x, label) of a row; a class, so that workers can be sent it."""

    image: str
    label: str | None
    kinds: dict[Any, int] | None
    size: int | None
    channels: int

    def __call__(self, row: Any) -> Any:
        image = row[self.image]
        if not hasattr(image, "getbands"):
            image = _as_picture(image, self.image)
        x = image_to_bytes(image, size=self.size, channels=self.channels)
        if self.label is None:
            return x
        return x, row[self.label] if self.kinds is None else self.kinds[row[self.label]]


class _Rows:
    """The rows of a data set as (x, label); map-style."""

    def __init__(self, rows: Any, read: Callable[[Any], Any]) -> None:
        self.rows, self.read = rows, read

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.read(self.rows[index])


def _as_picture(value: Any, column: str) -> Any:
    """A PIL image of nested lists (h, w) or (h, w, channels) of bytes, as arrays are stored."""
    from PIL import Image

    try:
        return Image.fromarray(np.asarray(value, dtype=np.uint8))
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {column!r} holds {type(value).__name__}, not images; name the column with image=") from error


def _files(name: str) -> list[str]:
    """The data files that a path or glob means; none: it is a name on the Hub, or a folder that `datasets` can read itself."""
    path = Path(name)
    found = sorted(str(file) for file in path.rglob("*")) if path.is_dir() else sorted(glob.glob(name, recursive=True))
    return [file for file in found if Path(file).suffix in FORMATS]


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError("Hugging Face data sets need the library datasets; pip install 'sde_diffusion[data]'") from error
    return datasets
