import numpy as np
import pytest
import torch
from PIL import Image

from sde_diffusion.data import ImageFolder, MapSamples, TensorSamples, load


def write(path, *, value=None, shape=(8, 8, 3), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, shape) if value is None else np.full(shape, value)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return pixels


def folder(root, n=10, **options):
    for k in range(n):
        write(root / f"{k}.png", value=10 * k, **options)
    return str(root)


def test_images_are_read_in_the_order_of_their_names_as_bytes_scaled_to_minus_one_to_one(tmp_path):
    data = load(folder(tmp_path))
    values = torch.cat([data.train.take().x, data.held_out.take().x])[:, 0, 0, 0]
    assert data.shape == (3, 8, 8)
    assert (len(data.train), len(data.held_out), data.classes, data.levels) == (8, 2, 0, 256)
    assert torch.equal(values.sort().values, torch.arange(10) * 10 / 127.5 - 1)


def test_channels_are_first_and_rows_from_the_top(tmp_path):
    pixels = [write(tmp_path / f"{k}.png", seed=k) for k in range(2)]
    data = ImageFolder(str(tmp_path)).load()
    found = torch.cat([data.train.take().x, data.held_out.take().x])
    expected = torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2) / 127.5 - 1
    assert torch.equal(found, expected) or torch.equal(found, expected.flip(0))


def test_sub_folders_are_classes(tmp_path):
    for k in range(10):
        write(tmp_path / ("bright" if k > 4 else "dark") / "deeper" / f"{k}.png", value=20 * k)
    batch = load(str(tmp_path)).train.take()
    assert torch.equal(batch.labels, (batch.x[:, 0, 0, 0] < 100 / 127.5 - 1).long())  # bright is 0: alphabetical


def test_folders_train_and_test_are_the_parts(tmp_path):
    for k in range(6):
        write(tmp_path / ("train" if k < 4 else "test") / "ab"[k % 2] / f"{k}.png", value=k)
    data = ImageFolder(str(tmp_path), flip=True).load()
    assert ((data.train.take().x[:, 0, 0, 0] + 1) * 127.5).round().tolist() == [0, 2, 1, 3]
    assert data.held_out.take().labels.tolist() == [0, 1]
    assert data.train.pixels.flip
    assert not data.held_out.pixels.flip


@pytest.mark.parametrize("workers", [0, 2])
def test_images_decoded_when_needed_are_those_decoded_to_memory(tmp_path, workers):
    path = folder(tmp_path)
    memory, lazy = (ImageFolder(path, flip=True, dequantize=True, memory=limit).load().train for limit in (10**6, 0))
    assert isinstance(memory, TensorSamples)
    assert not isinstance(lazy, TensorSamples)
    one, other = memory.batches(4, seed=0), lazy.batches(4, seed=0, workers=workers)
    assert all(torch.equal(next(one).x, next(other).x) for _ in range(4))


def test_the_central_square_is_resized_with_antialiasing(tmp_path):
    pixels = np.zeros((32, 64, 3))
    pixels[:, ::2] = 255  # stripes of one pixel: without antialiasing, a fourth of the columns would be black or white
    for k in range(2):
        write(tmp_path / f"{k}.png", shape=(32, 64, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{k}.png")
    x = ImageFolder(str(tmp_path), size=8).load().train.take().x
    assert x.shape == (1, 3, 8, 8)
    assert x[..., 1:-1].abs().max() < 0.1


def test_grey_images_have_one_channel(tmp_path):
    assert ImageFolder(folder(tmp_path), channels=1).load().shape == (1, 8, 8)


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)])
def test_pictures_of_a_data_set_have_the_colours_that_they_show(mode, channels):
    white = Image.new("RGB", (4, 2), "white").convert(mode)
    assert torch.equal(MapSamples([white]).take().x, torch.ones(1, channels, 2, 4))


def test_pictures_on_their_side_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    for k in range(2):
        Image.new("RGB", (8, 4)).save(tmp_path / f"{k}.jpg", exif=exif)
    assert ImageFolder(str(tmp_path)).load().shape == (3, 8, 4)


def test_corrupt_images_are_named_and_refused_or_skipped(tmp_path):
    path = folder(tmp_path)
    (tmp_path / "3.png").write_bytes(b"no image")
    whole = (tmp_path / "4.png").read_bytes()
    (tmp_path / "4.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"2 of 10 files .* are not readable images: .*3\.png .*4\.png .*on_error='skip'"):
        ImageFolder(path).load()
    with pytest.warns(UserWarning, match="2 of 10 files .* are skipped"):
        data = ImageFolder(path, on_error="skip").load()
    assert len(data.train) + len(data.held_out) == 8


def test_an_image_that_breaks_only_when_it_is_decoded_is_named(tmp_path):
    data = ImageFolder(folder(tmp_path), memory=0).load()
    for file in tmp_path.iterdir():
        file.write_bytes(b"gone")
    with pytest.raises(ValueError, match=r"\.png cannot be decoded"):
        data.train.take(1)


def test_folders_that_cannot_be_used_are_refused_before_work_starts(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        ImageFolder(str(tmp_path / "none")).load()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"holds no images but \.txt"):
        ImageFolder(str(tmp_path)).load()
    write(tmp_path / "one.png")
    with pytest.raises(ValueError, match="holds 1 readable images"):
        ImageFolder(str(tmp_path)).load()
    write(tmp_path / "two.png", shape=(4, 6, 3))
    with pytest.raises(ValueError, match=r"2 sizes \(1 of 8x8, 1 of 6x4\); pass size=, say size=4"):
        ImageFolder(str(tmp_path)).load()


def test_images_of_sixteen_bits_are_refused(tmp_path):
    for k in range(2):
        Image.fromarray(np.full((4, 4), 1000, dtype=np.uint16)).save(tmp_path / f"{k}.png")
    with pytest.raises(ValueError, match="more than 8 bits"):
        ImageFolder(str(tmp_path)).load()


@pytest.mark.parametrize(("options", "message"), [({"channels": 2}, "channels"), ({"size": 0}, "size"), ({"on_error": "x"}, "on_error")])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ImageFolder("photos", **options)
