"""The built-in extractor: a small convolutional network trained once on the training digits, for Fréchet distances that see digits.

    features(x) = 64 activations before the last layer,    logits(x) = W features(x) + b over the ten digits

It is trained in 2 s on one thread by a fixed recipe with seeded weights, order and noise, classifies 98 to 99 % of the held-out digits,
and is kept in the user's cache folder under a digest of the recipe.  Weights differ in the last digits between machines: quote distances
only beside distances measured with the same file.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sde_diffusion.evaluation.features import in_batches, module_key, write_tensors

BATCH = 1024  # samples at a time when features are computed


@dataclass(frozen=True)
class Recipe:
    """All that determines the weights.

    Args:
        width: channels of the first layer.
        features: size of the feature vector.
        epochs: passes over the training digits.
        batch: digits per update.
        lr: peak of the one-cycle learning rate.
        weight_decay: of AdamW.
        noise: standard deviation of what is added to the digits, which are in [-1, 1] with steps of 1/8: imperfect samples are no surprise.
        smoothing: of the labels.
        seed: of weights, order and noise.
        version: of the architecture and of the training code.
    """

    width: int = 16
    features: int = 64
    epochs: int = 20
    batch: int = 64
    lr: float = 4e-3
    weight_decay: float = 1e-2
    noise: float = 0.1
    smoothing: float = 0.05
    seed: int = 0
    version: int = 2

    def networks(self) -> tuple[nn.Sequential, nn.Linear]:
        """The feature network and the last layer, with their seeded first weights."""
        width = self.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            features = nn.Sequential(
                nn.Conv2d(1, width, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(width, 2 * width, 3, padding=1, stride=2),
                nn.SiLU(),
                nn.Conv2d(2 * width, 2 * width, 3, padding=1, stride=2),
                nn.SiLU(),
                nn.Flatten(),
                nn.Linear(8 * width, self.features),
                nn.SiLU(),
            )
            return features, nn.Linear(self.features, 10)

    def train(self) -> nn.Sequential:
        """The trained network: features, then the last layer."""
        from sde_diffusion.data import load

        x, labels, _ = load("digits").train.take()
        if labels is None:
            raise ValueError("the digits came without labels; reinstall scikit-learn, whose data they are")
        network = nn.Sequential(*self.networks())
        generator = torch.Generator().manual_seed(self.seed)
        steps = self.epochs * (len(x) // self.batch)
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps)
        for _ in range(steps):
            chosen = torch.randint(len(x), (self.batch,), generator=generator)
            noisy = x[chosen] + self.noise * torch.randn(self.batch, *x.shape[1:], generator=generator)
            loss = nn.functional.cross_entropy(network(noisy), labels[chosen], label_smoothing=self.smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return network.eval().requires_grad_(False)


class DigitsClassifier:
    """Features and logits of digits (b, 1, 8, 8) in [-1, 1]; made by `load`, which trains it where it has not been trained yet."""

    name = "digits-classifier"

    def __init__(self, network: nn.Sequential) -> None:
        self.features, self.head = network[0], network[1]

    @classmethod
    def load(cls, cache: Path | None = None, *, recipe: Recipe | None = None) -> DigitsClassifier:
        """The classifier, from the folder `cache` or trained and written there.

        Args:
            cache: None: sde_diffusion in the user's cache folder ($XDG_CACHE_HOME, ~/.cache, ~/Library/Caches or %LOCALAPPDATA%).
            recipe: of its training; None: the standard one.
        """
        from safetensors.torch import load_file

        recipe = Recipe() if recipe is None else recipe
        recipe_hash = hashlib.sha256(repr(astuple(recipe)).encode()).hexdigest()[:16]
        path = (user_cache() if cache is None else Path(cache)) / f"{cls.name}-{recipe_hash}.safetensors"
        network = nn.Sequential(*recipe.networks())
        if not path.exists():
            with torch.enable_grad():
                trained = recipe.train()
            try:
                write_tensors(path, trained.state_dict())
            except OSError:  # a read-only home: it is trained again next time
                return cls(trained)
        network.load_state_dict(load_file(path))
        return cls(network.eval().requires_grad_(False))

    @property
    def key(self) -> str:
        """Name and digest of the network."""
        return module_key(self.name, nn.Sequential(self.features, self.head))

    def __call__(self, x: Tensor) -> Tensor:
        """(b, 1, 8, 8) to (b, 64)."""
        return in_batches(self.features, x.float(), BATCH)

    def logits(self, x: Tensor) -> Tensor:
        """(b, 1, 8, 8) to (b, 10)."""
        return in_batches(self.head, self(x), BATCH)

    def __repr__(self) -> str:
        return "DigitsClassifier.load()"


def user_cache() -> Path:
    """The package's folder in the user's cache folder, by the platform's convention; $XDG_CACHE_HOME comes first everywhere."""
    if stated := os.environ.get("XDG_CACHE_HOME"):
        return Path(stated) / "sde_diffusion"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "sde_diffusion"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sde_diffusion"
    return Path.home() / ".cache" / "sde_diffusion"
