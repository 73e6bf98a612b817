"""What is trained on what: a configuration made into objects, and checked before any work starts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn

from sde_diffusion.data import Batch, Data, load
from sde_diffusion.data.moments import moments
from sde_diffusion.denoisers import Conditioning, NetworkDenoiser, Parameterization
from sde_diffusion.expressions import build, public_names
from sde_diffusion.losses.base import Loss
from sde_diffusion.noise import Noise, Positioned
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.training.config import check

KINDS = {"sde": AffineSDE, "parameterization": Parameterization, "conditioning": Conditioning, "loss": Loss}
"""What the expressions of a configuration must build."""

TIMES, NOISE, LABELS = range(3)  # what a key of random numbers is for


@dataclass(frozen=True, eq=False)
class Experiment:
    """The objects of a run. `losses` is all that the loop knows of them.

    Args:
        config: as from default_config(), checked, and with the data's numbers in the place of their names.
        data: what is trained on.
        denoiser: what is trained.
        loss: by what.
    """

    config: ConfigDict
    data: Data
    denoiser: NetworkDenoiser
    loss: Loss

    @classmethod
    def build(cls, config: ConfigDict, *, data: Any = None, network: nn.Module | None = None) -> Experiment:
        """Builds what a configuration says.

        Args:
            config: as from default_config(). Expressions may use `sigma_data`, the standard deviation of the training data.
            data: what to train on instead of config.data, such as a torch Dataset; config.data is then its name.
            network: instead of config.network, such as a module of your own.

        Raises:
            ValueError: for a configuration that is wrong, and for parts that do not fit each other.
        """
        check(config)
        data = load(config.data if data is None else data)
        config = resolved(config, data)
        with torch.random.fork_rng(devices=[]):  # modules draw their weights from the global generator: lend it to them
            torch.default_generator.manual_seed(config.seed)
            sde, parameterization, conditioning, loss = (_built(config, field, kind) for field, kind in KINDS.items())
            if network is None:
                torch.default_generator.manual_seed(config.seed)
                network = _built(config, "network", nn.Module)
        experiment = cls(config, data, NetworkDenoiser(network, sde, parameterization, conditioning), loss)
        experiment._try()
        return experiment

    def losses(self, batch: Batch, step: int, *, start: int = 0) -> tuple[Tensor, Tensor]:
        """Losses (b,) and times (b,) of the samples at positions start, start + 1, ... of the batch of a step.

        All random numbers are functions of (seed, step, position): a batch in parts, on one process or many, is the same batch.
        """
        seed, size, here = self.config.seed, self.config.batch_size, slice(start, start + len(batch.x))
        whole = batch.x.new_empty(1).expand(size)  # of which nothing but the length is used
        t = self.loss.draw_times(self.denoiser, whole, _key(seed, step, TIMES))[here]
        cond = None
        if self.config.conditional:
            assert batch.labels is not None
            dropped = torch.special.ndtr(_key(seed, step, LABELS)(t.new_empty(size)))[here] < self.config.label_dropout
            cond = torch.where(dropped, self.data.classes, batch.labels)
        return self.loss(self.denoiser, batch.x, t=t, noise=_key(seed, step, NOISE, start), cond=cond), t

    def _try(self) -> None:
        """One loss of two samples, so that what does not fit is known before the first step."""
        config, data = self.config, self.data
        if config.conditional:
            data.require_labels()
        samples = data.train.take(2)
        labels = samples.labels if not config.conditional else torch.tensor([0, data.classes - (config.label_dropout == 0)])
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                self.losses(samples._replace(labels=labels), 0)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            told = f" and {data.classes} classes" if config.conditional else ""
            raise ValueError(
                f"{config.network}, {config.loss} and {config.data}, of shape {data.shape}{told}, do not fit: {error}"
            ) from error


def _key(seed: int, step: int, use: int, start: int = 0) -> Noise:
    return Positioned((seed, step, use), start)


def resolved(config: ConfigDict, data: Data) -> ConfigDict:
    """The configuration with `sigma_data` in expressions replaced by the data's, to four digits."""
    config = ConfigDict(config.to_dict())
    named = [field for field in ("parameterization", "loss") if re.search(r"\bsigma_data\b(?!\s*=)", config[field])]
    if named:
        names = public_names() | {"sigma_data": float(f"{moments(data.train).std:.4g}")}
        for field in named:
            config[field] = repr(build(config[field], names))
    return config


def _built(config: ConfigDict, field: str, kind: type) -> Any:
    """The object of a field; ValueError for one of another kind."""
    built = build(config[field])
    if not isinstance(built, kind):
        article = "an" if kind.__name__[0] in "AE" else "a"
        raise ValueError(f"config.{field} must be {article} {kind.__name__}, got {config[field]}")
    return built
