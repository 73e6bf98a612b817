"""What is trained beside the network: the parameters of the loss and of the process, where these are modules.

They are few, so each process holds them whole, in an optimiser of their own with the network's settings but no weight decay: what wraps
and shards the network does not see them. Their gradients are averaged over processes, and clipped by themselves. The process is averaged
over training as the network is. What a loss remembers are its buffers.

    beside.safetensors             loss.* and sde.*: parameters and buffers
    beside-optimizer.safetensors   the moments of what has a gradient
    beside-ema-0.999.safetensors   each average of the process
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn

from sde_diffusion.losses.base import Observer
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.learned import LearnedSDE
from sde_diffusion.training.ema import Averages
from sde_diffusion.training.optimizer import make_optimizer
from sde_diffusion.training.states import gather, restore

if TYPE_CHECKING:
    from accelerate import Accelerator

    from sde_diffusion.training.checkpoint import Checkpoint
    from sde_diffusion.training.experiment import Experiment

GROUP, MOMENTS, AVERAGE = "beside", "beside-optimizer", "beside-ema-{}"
"""Names of the files."""


class Beside:
    """The modules that are trained beside the network; often none, and then nothing is done.

    Args:
        experiment: whose loss and process they are.

    Raises:
        ValueError: where they ask for what only the network's optimiser can do: float16's scaled gradients.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment, config = experiment, experiment.config
        loss, sde = module_of(experiment.loss), experiment.denoiser.sde
        parts = {"loss": loss, "sde": sde if isinstance(sde, LearnedSDE) else None}
        self.modules = nn.ModuleDict({name: part for name, part in parts.items() if part is not None})
        self._averages = Averages(sde, decays=config.ema, stds=config.ema_power) if isinstance(sde, LearnedSDE) else None
        self._optimizer: torch.optim.Optimizer | None = None
        if self._weights and config.precision == "float16":
            raise ValueError("what is trained beside the network knows nothing of float16's scaled gradients; use precision=bfloat16")

    @property
    def _weights(self) -> list[nn.Parameter]:
        return [p for p in self.modules.parameters() if p.requires_grad]

    def load(self, checkpoint: Checkpoint) -> None:
        """Sets the modules and their averages to those of a checkpoint; the moments are left to `prepare`."""
        if self.modules:
            self.modules.load_state_dict(checkpoint.tensors(GROUP))
        if self._averages is not None:
            self._averages.load_state_dict({name: checkpoint.tensors(AVERAGE.format(name)) for name in self._averages.names})

    def prepare(self, accelerator: Accelerator, checkpoint: Checkpoint | None = None) -> None:
        """Moves the modules to their device and makes their optimiser, with its moments in the checkpoint of a run that is resumed.

        Raises:
            ValueError: under DeepSpeed, whose backward pass takes the optimiser's step.
        """
        if self._weights and accelerator.distributed_type.value == "DEEPSPEED":
            raise ValueError("what is trained beside the network cannot be under DeepSpeed; use FSDP, or DistributedDataParallel")
        self._accelerator = accelerator
        self.modules.to(accelerator.device)
        if self._averages is not None:
            for name in self._averages.names:
                self._averages.network(name).to(accelerator.device)
        if self._weights:
            config: ConfigDict = self._experiment.config
            settings = {field: config[field] for field in ("lr", "betas", "eps")}
            # no decay: 0 is no simpler a log-SNR, or a height of a schedule, than another
            self._optimizer = make_optimizer(self.modules, name=config.optimizer, weight_decay=0.0, **settings)
            if checkpoint is not None:
                restore(self.modules, self._optimizer, checkpoint.tensors(MOMENTS))

    def clip(self) -> Tensor | float:
        """Averages the gradients over the processes, clips them to config.clip and returns their norm before that."""
        weights = self._weights
        for p in weights:
            p.grad = self._accelerator.reduce(torch.zeros_like(p) if p.grad is None else p.grad, "mean")
        return nn.utils.clip_grad_norm_(weights, self._experiment.config.clip) if weights else 0.0

    def step(self, lr: float, n: int) -> None:
        """Update number n (from 0), at the learning rate lr."""
        if self._optimizer is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            self._optimizer.step()
            self._optimizer.zero_grad()
        if self._averages is not None:
            self._averages.update(self.modules["sde"], n)

    def observe(self, t: Tensor, losses: Tensor) -> None:
        """Shows the times and losses of this process's samples, with those of all others, to a loss that learns from them."""
        loss = self._experiment.loss
        if "loss" in self.modules and isinstance(loss, Observer):  # one without buffers has nothing to learn into
            t, losses = self._accelerator.gather((t.detach(), losses.detach()))
            loss.observe(t, losses)

    def sde(self) -> AffineSDE:
        """The process to sample with: of learned ones the first average, frozen."""
        if self._averages is None:
            return self._experiment.denoiser.sde
        average: Any = self._averages.network()
        frozen: AffineSDE = average.frozen()
        return frozen

    def tensors(self) -> dict[str, dict[str, Any]]:
        """What a checkpoint keeps, by file; every process takes part."""
        groups: dict[str, dict[str, Any]] = {}
        if self.modules:
            groups[GROUP] = dict(self.modules.state_dict())
        if self._optimizer is not None:
            groups[MOMENTS] = gather(self.modules, self._optimizer)[1]
        if self._averages is not None:
            groups |= {AVERAGE.format(name): average for name, average in self._averages.state_dict().items()}
        return groups


def module_of(part: Any) -> nn.Module | None:
    """The module that a part of an experiment is, or those in the fields of a dataclass; None where there is none."""
    if isinstance(part, nn.Module):
        return part
    if not dataclasses.is_dataclass(part):
        return None
    inside = {field.name: module_of(getattr(part, field.name)) for field in dataclasses.fields(part)}
    found = {name: module for name, module in inside.items() if module is not None}
    return nn.ModuleDict(found) if found else None


def frozen(sde: AffineSDE) -> AffineSDE:
    """The process itself; of a learned one the table of its present schedule."""
    return sde.frozen() if isinstance(sde, LearnedSDE) else sde
