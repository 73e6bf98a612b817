"""A run: an experiment on its way, on one process or many, with all that a checkpoint keeps of it.

Processes, precision and sharding are accelerate's; states.py gives weights and moments one form, whatever wraps the network.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ml_collections import ConfigDict
from torch import nn

from sde_diffusion.data import Batches
from sde_diffusion.training.beside import Beside
from sde_diffusion.training.checkpoint import FOLDER, FORMAT, checkpoints, open_checkpoint, save_checkpoint
from sde_diffusion.training.config import difference
from sde_diffusion.training.ema import Averages
from sde_diffusion.training.experiment import Experiment
from sde_diffusion.training.optimizer import make_optimizer
from sde_diffusion.training.post_hoc import SNAPSHOTS, save_snapshot
from sde_diffusion.training.states import configure_sharding, gather, restore, shard_like, whole
from sde_diffusion.training.tracking import LOG, check_trackers

if TYPE_CHECKING:
    from accelerate import Accelerator

CONFIG = "config.json"
PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}  # accelerate's words


@dataclass
class Run:
    """A training run, ready to go; step is the number of updates done.

    Args:
        experiment: what is trained; its denoiser's network is the one that accelerate wraps.
        workdir: folder of the run.
        accelerator: of this process.
        network: the wrapped network.
        optimizer: the wrapped optimiser.
        averages: of the weights.
        beside: what is trained beside the network.
        batches: this process's part of each batch, from `step` on.
        step: number of updates done.
    """

    experiment: Experiment
    workdir: Path
    accelerator: Accelerator
    network: nn.Module
    optimizer: torch.optim.Optimizer
    averages: Averages
    beside: Beside
    batches: Batches
    step: int = 0

    @property
    def config(self) -> ConfigDict:
        return self.experiment.config

    def save(self) -> None:
        """Writes a checkpoint; all processes take part in it."""
        weights, moments = gather(self.network, self.optimizer)
        tensors = {"network": weights, "optimizer": moments, **self.beside.tensors()}
        for name, average in self.averages.state_dict().items():
            tensors[f"ema-{name}"] = {key: whole(value) for key, value in average.items()}
        data, position = self.experiment.data, self._gather(self.batches.state_dict())
        state = {
            "config": self.config.to_dict(),
            "averages": self.averages.names,
            "data": {"shape": data.shape, "range": data.range, "classes": data.classes, "position": position},
        }
        if self.accelerator.is_main_process:
            save_checkpoint(self.workdir, self.step, tensors, state, keep=self.config.keep, keep_every=self.config.keep_every)
        self.accelerator.wait_for_everyone()

    def snapshot(self) -> None:
        """Writes the power-function averages, for other widths afterwards."""
        save_snapshot(self.workdir, self.step, self.averages, main=self.accelerator.is_main_process)

    def _gather(self, value: Any) -> list[Any]:
        from accelerate.utils import gather_object

        return list(gather_object([value]))


def prepare(
    config: ConfigDict | Experiment, workdir: str | Path, *, resume: bool = False, overwrite: bool = False, device: str | None = None
) -> Run:
    """Builds a run and checks all that can be checked before the first step.

    Args:
        config: as from default_config(), or an Experiment.
        workdir: folder of the run.
        resume: continue the run in workdir, if there is one.
        overwrite: replace the run in workdir.
        device: such as "cpu" or "cuda:1"; None for the one that accelerate finds.

    Raises:
        FileExistsError: when workdir holds another run.
        ValueError: for a configuration that is wrong, or that differs from that of the run to resume.
    """
    workdir = Path(workdir)
    known = workdir / CONFIG
    if known.exists() and not (resume or overwrite):
        raise FileExistsError(f"{workdir} holds another run; add --resume to continue it or --overwrite to start anew")
    experiment = config if isinstance(config, Experiment) else Experiment.build(config)
    config = experiment.config
    if known.exists() and resume:
        _check_same(json.loads(known.read_text()), config, workdir)
    check_trackers(config.trackers)
    accelerator = make_accelerator(config, workdir, device)
    configure_sharding(accelerator, batch_size=config.batch_size, accumulate=config.accumulate, clip=config.clip)
    ranks, parts = accelerator.num_processes, accelerator.num_processes * config.accumulate
    if config.batch_size % parts:
        raise ValueError(
            f"config.batch_size={config.batch_size} is not divisible by {ranks} processes x accumulate={config.accumulate};"
            f" take {max(parts, config.batch_size // parts * parts)} or another number of processes"
        )
    batches = experiment.data.train.batches(
        config.batch_size, seed=config.seed, rank=accelerator.process_index, ranks=ranks, workers=config.workers
    )
    accelerator.wait_for_everyone()  # everybody has read the configuration that was there
    if overwrite and accelerator.is_main_process:
        for name in (CONFIG, LOG):
            (workdir / name).unlink(missing_ok=True)
        for name in (FOLDER, SNAPSHOTS):
            shutil.rmtree(workdir / name, ignore_errors=True)
    accelerator.wait_for_everyone()

    network = experiment.denoiser.network
    if config.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    averages = Averages(network, decays=config.ema, stds=config.ema_power)
    beside = Beside(experiment)
    checkpoint = open_checkpoint(workdir) if resume and checkpoints(workdir) else None
    if checkpoint is not None:
        if checkpoint.state["format"] != FORMAT:
            raise ValueError(f"{checkpoint.path} was written by an earlier version, and can be sampled from but not resumed; train anew")
        network.load_state_dict(checkpoint.tensors("network"))
        averages.load_state_dict({name: checkpoint.tensors(f"ema-{name}") for name in averages.names})
        beside.load(checkpoint)
    optimizer = make_optimizer(
        network.to(accelerator.device),
        name=config.optimizer,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
    wrapped, optimizer = accelerator.prepare(network, optimizer)
    for name in averages.names:
        shard_like(averages.network(name).to(accelerator.device), wrapped)
    experiment.denoiser.network = wrapped
    beside.prepare(accelerator, checkpoint)
    run = Run(experiment, workdir, accelerator, wrapped, optimizer, averages, beside, batches)
    if checkpoint is not None:
        restore(wrapped, optimizer, checkpoint.tensors("optimizer"))
        run.step = checkpoint.step
        batches.load_state_dict(checkpoint.state["data"]["position"])
    return run


def make_accelerator(config: ConfigDict, workdir: Path, device: str | None) -> Accelerator:
    """The accelerator of this process, as `accelerate launch`, torchrun or neither started it."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import GradientAccumulationPlugin

    if config.precision == "float16" and (device == "cpu" or not torch.cuda.is_available()):
        raise ValueError("config.precision=float16 needs a GPU; use bfloat16, or float32")
    with _device_named(device):
        AcceleratorState._reset_state(reset_partial_state=device is not None)  # of another run in this process
        return Accelerator(
            cpu=device == "cpu",
            mixed_precision=PRECISIONS[config.precision],
            gradient_accumulation_plugin=GradientAccumulationPlugin(config.accumulate, sync_with_dataloader=False),
            dynamo_backend="inductor" if config.compile else None,
            log_with=list(config.trackers) or None,
            project_dir=workdir,
        )


@contextmanager
def _device_named(device: str | None) -> Iterator[None]:
    """Tells accelerate of a device other than the CPU, by the variable that it reads."""
    name = "ACCELERATE_TORCH_DEVICE"
    before = os.environ.get(name)
    if device not in (None, "cpu"):
        os.environ[name] = str(device)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _check_same(old: dict[str, Any], config: ConfigDict, workdir: Path) -> None:
    if old.get("version", 1) != config.version:
        raise ValueError(f"{workdir} was started with a configuration of version {old.get('version', 1)}, this package writes version"
                         f" {config.version}; resume with the version that wrote it, or train anew in another workdir")  # fmt: skip
    changed = difference(old, config.to_dict())
    if changed:
        raise ValueError(f"{workdir} was started with another configuration ({'; '.join(changed)}); give the same one, or another workdir")
