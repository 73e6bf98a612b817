"""CIFAR-10 and MNIST in the files that their authors publish: plain bytes, no pickles.

CIFAR-10 (Krizhevsky 2009), binary version: records of 3073 bytes, the label and 3 x 32 x 32 pixels, channel by channel, in
data_batch_1.bin .. data_batch_5.bin (10 000 each) and test_batch.bin.
MNIST (LeCun et al. 1998), idx format: big-endian numbers 0x0000080k for k dimensions, the dimensions, the bytes.
"""

from __future__ import annotations

import gzip
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sde_diffusion.data.base import Data, Source
from sde_diffusion.data.pixels import BYTE_LEVELS, Pixels
from sde_diffusion.data.tensors import TensorSamples

RECORD = 1 + 3 * 32 * 32
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"


@dataclass(frozen=True)
class CIFAR10(Source):
    """CIFAR-10's 50 000 images (3, 32, 32) to train on and 10 000 held out, labels 0..9, from the folder of its binary version.

    Args:
        path: of the folder with data_batch_1.bin .. data_batch_5.bin and test_batch.bin, or of the one around it.
        flip: random horizontal flips.
        dequantize: uniform dequantisation, which likelihoods need.
    """

    path: str
    _: KW_ONLY
    flip: bool = False
    dequantize: bool = False

    def load(self) -> Data:
        folder = Path(self.path)
        if (folder / "cifar-10-batches-bin").is_dir():
            folder = folder / "cifar-10-batches-bin"
        files = [*(folder / f"data_batch_{k}.bin" for k in range(1, 6)), folder / "test_batch.bin"]
        missing = [file.name for file in files if not file.exists()]
        if missing:
            raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}; unpack the binary version there: {CIFAR_URL}")
        parts = [_records(file) for file in files]
        return _data(self, (3, 32, 32), torch.cat(parts[:5]), parts[5])


@dataclass(frozen=True)
class MNIST(Source):
    """MNIST's 60 000 images (1, 28, 28) to train on and 10 000 held out, labels 0..9, from idx files, as they are or as .gz.

    Args:
        path: of the folder with train-images-idx3-ubyte and the three others.
        flip: random horizontal flips.
        dequantize: uniform dequantisation, which likelihoods need.
    """

    path: str
    _: KW_ONLY
    flip: bool = False
    dequantize: bool = False

    def load(self) -> Data:
        parts = []
        for part in ("train", "t10k"):
            images = _idx(Path(self.path) / f"{part}-images-idx3-ubyte")
            labels = _idx(Path(self.path) / f"{part}-labels-idx1-ubyte")
            if len(images) != len(labels):
                raise ValueError(
                    f"{self.path} has {len(images)} {part} images and {len(labels)} labels; get the files again from {MNIST_URL}"
                )
            parts.append(torch.cat([labels[:, None], images.flatten(1)], dim=1))
            side = images.shape[1:]
        return _data(self, (1, *side), *parts)


def _data(source: CIFAR10 | MNIST, shape: tuple[int, ...], train: Tensor, held_out: Tensor) -> Data:
    """Data from records (n, 1 + pixels): the label, the pixels."""

    def part(records: Tensor, *, flip: bool) -> TensorSamples:
        pixels = Pixels(BYTE_LEVELS, source.dequantize, flip)
        return TensorSamples(records[:, 1:].reshape(-1, *shape).contiguous(), records[:, 0], pixels=pixels, classes=10)

    return Data(part(train, flip=source.flip), part(held_out, flip=False), type(source).__name__)


def _records(file: Path) -> Tensor:
    content = np.fromfile(file, dtype=np.uint8)
    if len(content) == 0 or len(content) % RECORD:
        raise ValueError(f"{file} has {len(content)} bytes, not a multiple of {RECORD}; get it again from {CIFAR_URL}")
    records = torch.from_numpy(content).view(-1, RECORD)
    if records[:, 0].max() > 9:
        raise ValueError(f"{file} has the label {records[:, 0].max()}, and CIFAR-10 has 0..9; get it again from {CIFAR_URL}")
    return records


def _idx(file: Path) -> Tensor:
    zipped = file.with_name(file.name + ".gz")
    if file.exists():
        content = file.read_bytes()
    elif zipped.exists():
        content = gzip.decompress(zipped.read_bytes())
    else:
        raise FileNotFoundError(f"no file {file} or {zipped.name}; get it from {MNIST_URL}")
    dimensions = content[3] if len(content) > 3 else 0
    shape = np.frombuffer(content, dtype=">u4", count=dimensions, offset=4).tolist() if len(content) >= 4 + 4 * dimensions else []
    if content[:3] != b"\0\0\x08" or not shape or len(content) != 4 + 4 * dimensions + int(np.prod(shape)):
        raise ValueError(f"{file} is not an idx file of bytes, or is cut short ({len(content)} bytes); get it again from {MNIST_URL}")
    return torch.frombuffer(bytearray(content[4 + 4 * dimensions :]), dtype=torch.uint8).view(shape)
