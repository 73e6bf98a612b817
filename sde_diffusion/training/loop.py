"""The training loop: minimise the mean denoising loss, average the weights, log, save.

Every random number is a function of (seed, step, position in the batch), the order of the data included. So a resumed run reaches the same
weights as one that was never interrupted, to the bit on one CPU process, and several processes follow the curve of one.

    workdir/config.json      the configuration          workdir/log.jsonl      one JSON object per line, see tracking.py
    workdir/checkpoints/     see checkpoint.py          workdir/samples/       pictures, where config.sample_every asks for them
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from ml_collections import ConfigDict
from torch import Tensor

from sde_diffusion.data import Batch
from sde_diffusion.denoisers import NetworkDenoiser
from sde_diffusion.noise import mixed
from sde_diffusion.training.beside import frozen
from sde_diffusion.training.checkpoint import checkpoints, write_json
from sde_diffusion.training.experiment import Experiment
from sde_diffusion.training.optimizer import learning_rate_factor
from sde_diffusion.training.run import CONFIG, Run, prepare
from sde_diffusion.training.signals import stops
from sde_diffusion.training.states import unsharded, whole
from sde_diffusion.training.tracking import History, LossByLevel, Progress, save_samples


def train(
    config: ConfigDict | Experiment,
    workdir: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    progress: bool = True,
) -> NetworkDenoiser:
    """Trains a denoiser, saves it under workdir and returns it with its averaged weights.

    Args:
        config: as from default_config(), or an Experiment.
        workdir: folder for checkpoints and the log.
        resume: continue the run in workdir, if there is one.
        overwrite: replace the run in workdir.
        device: such as "cpu" or "cuda:1"; None for the one that accelerate finds.
        progress: whether to show a progress bar on stderr.

    Raises:
        FileExistsError: when workdir holds another run.
        ValueError: for a configuration that is wrong, or that differs from that of the run to resume.
        FloatingPointError: when the loss or its gradient is not finite.
        OSError: when workdir cannot be written.
        SystemExit: after a signal to terminate, once a checkpoint is written; KeyboardInterrupt likewise.
    """
    return fit(prepare(config, workdir, resume=resume, overwrite=overwrite, device=device), progress=progress)


def fit(run: Run, *, progress: bool = True) -> NetworkDenoiser:
    """The loop of train(), from run.step to run.config.steps."""
    experiment, config, accelerator = run.experiment, run.config, run.accelerator
    denoiser, network, optimizer = experiment.denoiser, run.network, run.optimizer
    first = accelerator.process_index * config.batch_size // accelerator.num_processes  # position of this process's first sample
    if accelerator.is_main_process:
        _begin(run)
    history = History(run.workdir, accelerator, config=config, step=run.step)
    by_level = LossByLevel(frozen(denoiser.sde), device=accelerator.device)
    bar = Progress(config.steps, initial=run.step, batch_size=config.batch_size, disable=not (progress and accelerator.is_main_process))
    recent: list[Tensor] = []
    network.train()
    with stops() as stop, _settings(run):
        while run.step < config.steps:
            torch.manual_seed(mixed(config.seed, run.step, accelerator.process_index))  # of dropout
            lr = config.lr * learning_rate_factor(config.schedule, run.step, warmup=config.warmup, steps=config.steps)
            for group in optimizer.param_groups:  # before the backward pass, in which DeepSpeed takes its step
                group["lr"] = lr
            batch = next(run.batches)
            x = batch.x.to(accelerator.device, non_blocking=True)
            labels = None if batch.labels is None else batch.labels.to(accelerator.device, non_blocking=True)
            size = len(x) // config.accumulate
            parts: list[tuple[Tensor, Tensor]] = []
            for i in range(0, len(x), size):
                part = Batch(x[i : i + size], None if labels is None else labels[i : i + size], batch.indices[i : i + size])
                with accelerator.accumulate(network):
                    losses, t = experiment.losses(part, run.step, start=first + i)
                    accelerator.backward(losses.mean())
                parts.append((losses.detach(), t))
            losses, t = (torch.cat(column) for column in zip(*parts, strict=True))
            norm = accelerator.clip_grad_norm_(network.parameters(), config.clip)
            norm, beside = whole(torch.as_tensor(norm)), run.beside.clip()
            value = losses.mean() if config.precision == "float16" else norm + beside  # whose scaler copes with an infinite gradient
            if not math.isfinite(value):
                raise FloatingPointError(_divergence(run, losses, t, batch.indices))
            optimizer.step()
            optimizer.zero_grad()
            run.averages.update(network, run.step)
            run.beside.step(lr, run.step)
            run.beside.observe(t, losses)
            run.step += 1

            recent.append(losses.mean())
            by_level.add(t, losses)
            last = run.step == config.steps
            stopped = stop.asked if accelerator.num_processes == 1 else _any(run, stop.asked)
            if last or run.step % config.log_every == 0:
                loss = accelerator.reduce(torch.stack(recent), "mean")
                history.log(run.step, loss=loss.mean(), lr=lr, gradient_norm=norm, loss_by_level=by_level.result(accelerator))
                bar.show(loss=loss.mean())
                recent = []
                by_level = LossByLevel(frozen(denoiser.sde), device=accelerator.device)  # of a process that may have changed
            if config.sample_every and run.step % config.sample_every == 0:
                _picture(run)
            if config.snapshot_every and (last or run.step % config.snapshot_every == 0):
                run.snapshot()
            if last or stopped or run.step % config.checkpoint_every == 0:
                run.save()
            bar.update()
            if stopped:
                stop.leave(run.workdir, run.step)
    bar.close()
    history.close()
    denoiser.network = accelerator.unwrap_model(network, keep_torch_compile=False)
    return _averaged(run)


def _averaged(run: Run) -> NetworkDenoiser:
    """The denoiser with the first average of the weights; every process takes part."""
    denoiser = run.experiment.denoiser
    return NetworkDenoiser(unsharded(run.averages.network()), run.beside.sde(), denoiser.parameterization, denoiser.conditioning).eval()


def _begin(run: Run) -> None:
    """Writes the configuration, which also tells whether the folder can be written."""
    try:
        run.workdir.mkdir(parents=True, exist_ok=True)
        write_json(run.workdir / CONFIG, run.config.to_dict())
    except OSError as error:
        raise OSError(f"cannot write {run.workdir} ({error.strerror or error}); give another --workdir, or make room there") from error


@contextmanager
def _settings(run: Run) -> Iterator[None]:
    """Global settings of torch, lent for the length of the loop: its generators, and TF32 where it is wanted."""
    devices = [run.accelerator.device] if run.accelerator.device.type == "cuda" else []
    precision = torch.get_float32_matmul_precision()
    with torch.random.fork_rng(devices=devices):
        try:
            if run.config.tf32:
                torch.set_float32_matmul_precision("high")
            yield
        finally:
            torch.set_float32_matmul_precision(precision)


def _any(run: Run, asked: int) -> bool:
    """Whether any process was asked to stop; all of them must know at the same step."""
    flags = run.accelerator.reduce(torch.tensor(float(asked > 0), device=run.accelerator.device))
    return bool(flags > 0)


def _picture(run: Run) -> None:
    """Samples of the averaged weights, the same noise each time, drawn by the main process."""
    averaged = _averaged(run)
    if run.accelerator.is_main_process:
        classes = run.experiment.data.classes if run.config.conditional else 0
        save_samples(averaged, run.workdir / "samples" / f"{run.step:08d}.png", shape=run.experiment.data.shape, classes=classes)
    run.accelerator.wait_for_everyone()


def _divergence(run: Run, losses: Tensor, t: Tensor, indices: Tensor) -> str:
    saved = checkpoints(run.workdir)
    bad = ~losses.isfinite().cpu()
    where = bad if bad.any() else torch.ones_like(bad)  # finite losses, infinite gradient: any sample may be the one
    return (
        f"the loss or its gradient is not finite at step {run.step}: loss {losses.mean().item():.4g},"
        f" t = {t.cpu()[where].tolist()[:4]}, samples {indices[where].tolist()[:4]} of the training data;"
        f" the last good checkpoint is {saved[-1] if saved else '(none)'}; lower config.lr or raise the smallest time"
    )
