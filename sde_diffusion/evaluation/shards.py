"""Any number of samples in a folder: written chunk by chunk, by any number of processes, continued where they stopped.

    folder/manifest.json     the settings that the samples come from, n, batch, format
    folder/000000.npz        chunk 0: samples (b, *d), indices (b,) and, where there are classes, labels (b,)
    folder/000000.png        or image 0, where the format is "png"

Chunk k holds the samples k batch .. min((k + 1) batch, n) - 1, and process r of R draws the chunks r, r + R, ... .  As sample i has
noise of its own, and a chunk is always drawn as one batch, the bytes do not depend on R.  Each file is written under another name,
flushed and renamed: those that are there are whole.  Only one chunk is in memory at a time.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sde_diffusion.files import TEMPORARY, write_atomically

MANIFEST = "manifest.json"
FORMATS = ("npz", "png")
DIGITS = 6  # in names of files
INFORMATION = ("n", "made")  # what may change in a manifest: more samples, and notes


class Shard(NamedTuple):
    """Samples (b, *d), their indices (b,) and their classes (b,), None where they have none."""

    samples: Tensor
    indices: Tensor
    labels: Tensor | None


class Ranks(NamedTuple):
    """This process among those that draw, and how it waits for the others."""

    rank: int = 0
    number: int = 1
    wait: Callable[[], None] = lambda: None


ALONE = Ranks()


def write_shards(
    folder: str | Path,
    draw: Callable[[range], Tensor],
    *,
    n: int,
    settings: Mapping[str, Any],
    batch: int = 256,
    format: str = "npz",
    labels: Callable[[Sequence[int]], Tensor | None] = lambda indices: None,
    ranks: Ranks = ALONE,
    overwrite: bool = False,
    made: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] = lambda number: None,
) -> int:
    """Draws the samples 0 .. n - 1 that the folder lacks, and writes them.

    Args:
        folder: where to; made if it is not there.
        draw: from indices to samples (b, *d); a function of the indices alone.
        n: the number of samples of the whole folder; may grow from call to call.
        settings: what else the samples depend on, as JSON: a folder is continued with equal settings only.
        batch: samples in a chunk.
        format: "npz", or "png" for images (b, 1 or 3, h, w) in [-1, 1], rounded to 256 levels.
        labels: from indices to classes.
        ranks: which of how many processes this is.
        overwrite: whether to remove samples of other settings.
        made: notes for the manifest, such as paths and versions; they may differ.
        progress: called with the number of samples after each chunk.

    Returns:
        The number of samples that this call drew.

    Raises:
        FileExistsError: if the folder holds samples of other settings, or other files.
        ValueError: for an unknown format and for numbers that are not positive.
        OSError: where the disk is full or the folder cannot be written; no half file is left.
    """
    folder = Path(folder)
    if format not in FORMATS:
        raise ValueError(f"format must be {' or '.join(FORMATS)}, got {format!r}")
    if n < 1 or batch < 1:
        raise ValueError(f"n and batch must be positive, got {n} and {batch}")
    manifest = json.loads(json.dumps({**settings, "n": n, "batch": batch, "format": format, "made": dict(made or {})}))
    _check(folder, manifest, overwrite=overwrite)
    ranks.wait()  # nobody writes before everybody has checked
    try:
        if ranks.rank == 0:
            _open(folder, manifest, overwrite=overwrite)
        ranks.wait()
        drawn = 0
        for k in range(ranks.rank, -(-n // batch), ranks.number):
            indices = range(k * batch, min((k + 1) * batch, n))
            if not _complete(folder, k, indices, format):
                samples = draw(indices).detach().cpu()
                _write_chunk(folder, k, Shard(samples, torch.tensor(indices), labels(indices)), format)
                drawn += len(indices)
            progress(len(indices))
    except OSError as error:
        cure = "free some space or choose another --out; the complete files are kept, and the same command continues"
        raise OSError(f"cannot write samples to {folder}: {error.strerror or error}; {cure}") from error
    ranks.wait()
    return drawn


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a folder of samples.

    Raises:
        FileNotFoundError: if it has none.
    """
    path = Path(folder) / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"no samples in {folder} ({MANIFEST} is missing); draw some with `sde-diffusion sample --out {folder}`")
    return json.loads(path.read_text())


def read_shards(folder: str | Path) -> Iterator[Shard]:
    """The chunks of a folder in their order, one at a time; samples of images files are x = 2 pixel/255 - 1.

    Raises:
        FileNotFoundError: if the folder has no manifest.
        ValueError: if chunks are missing.
    """
    folder, manifest = Path(folder), read_manifest(folder)
    n, batch, format = manifest["n"], manifest["batch"], manifest["format"]
    for k in range(-(-n // batch)):
        indices = range(k * batch, min((k + 1) * batch, n))
        if not _complete(folder, k, indices, format):
            raise ValueError(f"{folder} lacks some of the samples {indices.start}..{indices.stop - 1}; the command that began it continues")
        if format == "npz":
            with np.load(folder / _name(k, "npz")) as content:
                arrays = {name: torch.from_numpy(content[name]) for name in content.files}
            yield Shard(arrays["samples"], arrays["indices"], arrays.get("labels"))
        else:
            classes = manifest.get("classes")
            labels = None if classes is None else torch.tensor([classes[i % len(classes)] for i in indices])
            yield Shard(torch.stack([_read_image(folder / _name(i, "png")) for i in indices]), torch.tensor(indices), labels)


def load_shards(folder: str | Path) -> Shard:
    """All samples of a folder at once; raises as `read_shards`."""
    samples, indices, labels = zip(*read_shards(folder), strict=True)
    return Shard(torch.cat(samples), torch.cat(indices), None if labels[0] is None else torch.cat(labels))


def _name(number: int, suffix: str) -> str:
    return f"{number:0{DIGITS}d}.{suffix}"


def _check(folder: Path, manifest: dict[str, Any], *, overwrite: bool) -> None:
    """Raises where the folder is not one to continue."""
    if overwrite or not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose another --out")
    if not (folder / MANIFEST).exists():
        strangers = sorted(path.name for path in folder.iterdir() if not path.name.startswith(TEMPORARY))
        if strangers:
            raise FileExistsError(f"{folder} holds other files ({', '.join(strangers[:3])}); choose another --out")
        return
    old = read_manifest(folder)
    fields = sorted((old.keys() | manifest.keys()) - set(INFORMATION))
    changed = [f"{field}: {old.get(field)!r} -> {manifest.get(field)!r}" for field in fields if old.get(field) != manifest.get(field)]
    if manifest["n"] < old["n"]:
        changed.append(f"n: {old['n']} -> {manifest['n']}, which may only grow")
    if changed:
        raise FileExistsError(f"{folder} holds samples of other settings ({'; '.join(changed)}); add --overwrite or choose another --out")


def _open(folder: Path, manifest: dict[str, Any], *, overwrite: bool) -> None:
    """Makes the folder ready: what was begun or is to be replaced is removed, and the manifest written."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        ours = path.stem.isdigit() and path.suffix[1:] in FORMATS
        if path.name.startswith(TEMPORARY) or (overwrite and (ours or path.name == MANIFEST)):
            path.unlink()
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1).encode())


def _complete(folder: Path, k: int, indices: range, format: str) -> bool:
    """Whether a chunk is there with all its samples: the last one may have been shorter once."""
    if format == "png":
        return all((folder / _name(i, "png")).exists() for i in indices)
    path = folder / _name(k, "npz")
    if not path.exists():
        return False
    with np.load(path) as content:
        return bool(np.array_equal(content["indices"], indices))


def _write_chunk(folder: Path, k: int, shard: Shard, format: str) -> None:
    if format == "png":
        for i, image in zip(shard.indices.tolist(), shard.samples, strict=True):
            write_atomically(folder / _name(i, "png"), _image(image))
        return
    arrays = {name: tensor.numpy() for name, tensor in shard._asdict().items() if tensor is not None}
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomically(folder / _name(k, "npz"), content.getvalue())


def _image(x: Tensor) -> bytes:
    """A PNG file of an image (1 or 3, h, w) in [-1, 1]."""
    from PIL import Image

    if x.ndim != 3 or x.shape[0] not in (1, 3):
        raise ValueError(f"an image file has 1 or 3 channels, got samples of shape {tuple(x.shape)}; use --format npz")
    pixels = ((x.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    content = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy()).save(content, format="PNG")
    return content.getvalue()


def _read_image(path: Path) -> Tensor:
    from PIL import Image

    with Image.open(path) as image:
        pixels = torch.from_numpy(np.array(image))
    return (pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)).float() / 127.5 - 1
