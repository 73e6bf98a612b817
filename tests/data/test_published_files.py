import gzip
import struct

import numpy as np
import pytest
import torch

from sde_diffusion.data import CIFAR10, MNIST, load


def write_cifar(folder, n=4):
    """Files in the format of the binary version, with n records each; returns what they hold."""
    random = np.random.default_rng(0)
    records = random.integers(0, 256, (6, n, 3073)).astype(np.uint8)
    records[:, :, 0] %= 10
    for name, part in zip([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"], records, strict=True):
        part.tofile(folder / f"{name}.bin")
    return torch.tensor(records)


def test_cifar_records_are_a_label_and_three_planes(tmp_path):
    records = write_cifar(tmp_path)
    data = load(tmp_path)
    train, held_out = data.train.take(), data.held_out.take()
    assert (data.name, data.shape, data.classes, data.levels) == ("CIFAR10", (3, 32, 32), 10, 256)
    assert torch.equal(train.labels, records[:5, :, 0].flatten().long())
    assert torch.equal(train.x[1, 2, 3, 4], records[0, 1, 1 + 2 * 1024 + 3 * 32 + 4] / 127.5 - 1)
    assert torch.equal(held_out.x.flatten(1), records[5, :, 1:] / 127.5 - 1)


def test_cifar_options_reach_the_training_part_and_dequantisation_both(tmp_path):
    write_cifar(tmp_path)
    data = CIFAR10(str(tmp_path), flip=True, dequantize=True).load()
    assert data.train.pixels.flip
    assert not data.held_out.pixels.flip
    assert data.held_out.pixels.dequantize


def test_missing_and_broken_cifar_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks data_batch_1.bin, .*https://www.cs.toronto.edu"):
        CIFAR10(str(tmp_path)).load()
    write_cifar(tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(b"123")
    with pytest.raises(ValueError, match=r"test_batch\.bin has 3 bytes, not a multiple of 3073"):
        CIFAR10(str(tmp_path)).load()
    (tmp_path / "test_batch.bin").write_bytes(bytes([10]) * 3073)
    with pytest.raises(ValueError, match="has the label 10"):
        CIFAR10(str(tmp_path)).load()


def write_idx(path, array, pack=gzip.compress):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(pack(header + array.astype(np.uint8).tobytes()))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_files_are_read_zipped_or_not(tmp_path, suffix):
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28))
    for part, chosen in (("train", slice(0, 4)), ("t10k", slice(4, 6))):
        pack = gzip.compress if suffix else bytes
        write_idx(tmp_path / f"{part}-images-idx3-ubyte{suffix}", images[chosen], pack)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte{suffix}", np.arange(6)[chosen], pack)
    data = load(tmp_path)
    assert (data.name, data.shape, data.classes) == ("MNIST", (1, 28, 28), 10)
    assert torch.equal(data.train.take().x[:, 0], torch.tensor(images[:4]).float() / 127.5 - 1)
    assert data.held_out.take().labels.tolist() == [4, 5]


def test_missing_and_broken_mnist_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*train-images-idx3-ubyte"):
        MNIST(str(tmp_path)).load()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0\0\x09")
    with pytest.raises(ValueError, match="cut short"):
        MNIST(str(tmp_path)).load()
