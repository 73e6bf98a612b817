"""What distances are measured in: functions from data to feature vectors.

An extractor has a name for tables, a key that identifies its weights for caches, and maps (b, *d) to (b, f).  One that also classifies
has logits (b, classes), which the inception score needs.  `Pixels` is the identity; `ModuleFeatures` wraps any network.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class FeatureExtractor(Protocol):
    """Maps data (b, *d), images in [-1, 1], to features (b, f)."""

    @property
    def name(self) -> str:
        """For tables: short, and the same whenever the features are."""

    @property
    def key(self) -> str:
        """For caches: changes with the weights."""

    def __call__(self, x: Tensor) -> Tensor:
        """The features of x."""


@runtime_checkable
class Classifier(FeatureExtractor, Protocol):
    """An extractor that also classifies."""

    def logits(self, x: Tensor) -> Tensor:
        """The class logits of x, (b, classes)."""


@dataclass(frozen=True)
class Pixels:
    """The data themselves, flattened."""

    name: str = "pixels"

    @property
    def key(self) -> str:
        """Its name; it has no weights."""
        return self.name

    def __call__(self, x: Tensor) -> Tensor:
        """(b, *d) to (b, f)."""
        return x.flatten(1)


def in_batches(function: nn.Module, x: Tensor, batch: int) -> Tensor:
    """A module's outputs for x (n, *d), flattened, float32 on the CPU, in evaluation mode and on the module's device."""
    device = next((p.device for p in function.parameters()), torch.device("cpu"))
    training = function.training
    function.eval()
    with torch.no_grad():
        parts = [function(part.to(device)).flatten(1).float().cpu() for part in x.split(batch)]
    function.train(training)
    return torch.cat(parts)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits that identify the names, shapes, types and values of tensors."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        content = tensor.detach().cpu().contiguous()
        total.update(f"{name} {tuple(content.shape)} {content.dtype};".encode())
        total.update(content.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]


def module_key(name: str, module: nn.Module) -> str:
    """The name, the digest of the weights, and one of what the module prints: layers without weights differ in nothing else."""
    return f"{name}-{digest(module.state_dict())}-{hashlib.sha256(repr(module).encode()).hexdigest()[:8]}"


class ModuleFeatures:
    """The outputs of a module as features; it is run in evaluation mode, without gradients, wherever its weights lie.

    Args:
        module: maps (b, *d) in [-1, 1] to (b, ...), which is flattened.
        name: for tables.
        batch: samples at a time.
    """

    def __init__(self, module: nn.Module, *, name: str, batch: int = 256) -> None:
        self.module, self.name, self.batch = module, name, batch

    @property
    def key(self) -> str:
        """Name and digest of the module."""
        return module_key(self.name, self.module)

    def __call__(self, x: Tensor) -> Tensor:
        """(b, *d) to (b, f)."""
        return in_batches(self.module, x, self.batch)

    def __repr__(self) -> str:
        return f"ModuleFeatures({type(self.module).__name__}, name={self.name!r}, batch={self.batch})"


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file as a whole or not at all, so that processes may share a cache."""
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(save({k: v.contiguous() for k, v in tensors.items()}))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def cached_features(x: Tensor, features: FeatureExtractor, cache: Path | None) -> Tensor:
    """The features of x (n, *d), read from the folder `cache` if they were once written there.

    Files are named after the content of x and the extractor's key, so that a changed data set or network is never mistaken for another.
    """
    return x.flatten(1) if isinstance(features, Pixels) else _cached(x, features, f"features {features.key}", cache)


def cached_logits(x: Tensor, classifier: Classifier, cache: Path | None) -> Tensor:
    """The same for logits."""
    return _cached(x, classifier.logits, f"logits {classifier.key}", cache)


def _cached(x: Tensor, function: Callable[[Tensor], Tensor], key: str, cache: Path | None) -> Tensor:
    if cache is None:
        return function(x)
    from safetensors.torch import load_file

    path = Path(cache) / f"{key.split()[0]}-{digest({'x': x})}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    if not path.exists():
        write_tensors(path, {"values": function(x)})
    return load_file(path)["values"]
