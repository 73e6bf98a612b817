"""The training loop: minimise the mean denoising loss with Adam, average the weights, log, save.

All randomness but the initial weights and the order of the data comes from one generator, whose state is saved: a resumed
run reaches the same weights, to the bit, as one that was never interrupted (on one CPU process).

    workdir/config.json      the configuration          workdir/log.jsonl      {"step", "loss", "lr", "seconds"} per line
    workdir/checkpoints/     see checkpoint.py
"""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from tqdm import tqdm

from sde_diffusion.denoisers import Conditioning, NetworkDenoiser, Parameterization
from sde_diffusion.expressions import build
from sde_diffusion.losses import DenoisingScoreMatching
from sde_diffusion.noise import Stream
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.training import data
from sde_diffusion.training.checkpoint import FOLDER, checkpoints, open_checkpoint, save_checkpoint, write_json
from sde_diffusion.training.config import check, difference
from sde_diffusion.training.ema import EMA

CONFIG, LOG = "config.json", "log.jsonl"
KINDS = {"sde": AffineSDE, "parameterization": Parameterization, "conditioning": Conditioning, "loss": DenoisingScoreMatching}
"""What the expressions of a configuration must build."""


@dataclass
class Run:
    """Everything a training run is made of, checked and ready to go; step is the number of updates done."""

    config: ConfigDict
    workdir: Path
    dataset: data.Dataset
    denoiser: NetworkDenoiser
    ema: EMA
    loss: DenoisingScoreMatching
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0


def prepare(config: ConfigDict, workdir: str | Path, *, resume: bool = False, overwrite: bool = False, device: str = "cpu") -> Run:
    """Builds a run and checks all that can be checked before the first step.

    Raises:
        FileExistsError: when workdir holds another run.
        ValueError: for a configuration that is wrong, or that differs from that of the run to resume.
    """
    workdir = Path(workdir)
    check(config)
    known = workdir / CONFIG
    if known.exists() and not (resume or overwrite):
        raise FileExistsError(f"{workdir} holds another run; add --resume to continue it or --overwrite to start anew")
    changed = difference(json.loads(known.read_text()), config.to_dict()) if known.exists() and resume else []
    if changed:
        raise ValueError(f"{workdir} was started with another configuration ({'; '.join(changed)}); give the same one, or another workdir")

    dataset = data.load(config.data)
    sde, parameterization, conditioning, loss = (_built(config, field, kind) for field, kind in KINDS.items())
    with torch.random.fork_rng(devices=[]):  # modules draw their weights from the global generator: lend it to them
        torch.default_generator.manual_seed(config.seed)
        network = _built(config, "network", nn.Module)
    denoiser = NetworkDenoiser(network, sde, parameterization, conditioning).to(device)
    try:
        with torch.no_grad():
            loss(denoiser, dataset.train[:2].to(device), generator=torch.Generator(device).manual_seed(0))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{config.network}, {config.loss} and {config.data}, of shape {dataset.shape}, do not fit: {error}") from error

    generator = torch.Generator(device).manual_seed(config.seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr, fused=torch.device(device).type in ("cpu", "cuda"))
    run = Run(config, workdir, dataset, denoiser, EMA(network, config.ema), loss, optimizer, generator)
    if overwrite:
        for name in (CONFIG, LOG):
            (workdir / name).unlink(missing_ok=True)
        shutil.rmtree(workdir / FOLDER, ignore_errors=True)
    if resume and checkpoints(workdir):
        _restore(run)
    return run


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    progress: bool = True,
) -> NetworkDenoiser:
    """Trains a denoiser, saves it under workdir and returns it with its averaged weights.

    Args:
        config: as from default_config().
        workdir: folder for checkpoints and the log.
        resume: continue the run in workdir, if there is one.
        overwrite: replace the run in workdir.
        device: such as "cuda".
        progress: whether to show a progress bar on stderr.

    Raises:
        FileExistsError: when workdir holds another run.
        ValueError: for a configuration that is wrong, or that differs from that of the run to resume.
        FloatingPointError: when the loss or its gradient is not finite.
    """
    return fit(prepare(config, workdir, resume=resume, overwrite=overwrite, device=device), progress=progress)


def fit(run: Run, *, progress: bool = True) -> NetworkDenoiser:
    """The loop of train(), from run.step to run.config.steps."""
    config, denoiser, network, generator = run.config, run.denoiser, run.denoiser.network, run.generator
    noise = Stream(generator)
    run.workdir.mkdir(parents=True, exist_ok=True)
    write_json(run.workdir / CONFIG, config.to_dict())
    _trim_log(run.workdir / LOG, run.step)
    train_data = run.dataset.train.to(generator.device)
    recent, started = [], time.perf_counter()
    bar = tqdm(total=config.steps, initial=run.step, desc="training", unit="step", disable=not progress)
    network.train()
    while run.step < config.steps:
        indices = data.batch_indices(len(train_data), config.batch_size, seed=config.seed, step=run.step)
        x0 = train_data[indices.to(generator.device)]
        t = run.loss.draw_times(denoiser, x0, noise)
        losses = run.loss(denoiser, x0, t=t, noise=noise)
        losses.mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        if not math.isfinite(norm):
            raise FloatingPointError(_divergence(run, losses, t, indices))
        for group in run.optimizer.param_groups:
            group["lr"] = config.lr * min(1.0, (run.step + 1) / max(1, config.warmup))
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.ema.update(network, run.step)
        run.step += 1

        recent.append(losses.detach().mean())
        if run.step % config.log_every == 0 or run.step == config.steps:
            loss = torch.stack(recent).mean().item()
            line = {"step": run.step, "loss": loss, "lr": group["lr"], "seconds": round(time.perf_counter() - started, 2)}
            with open(run.workdir / LOG, "a") as log:
                log.write(json.dumps(line) + "\n")
            bar.set_postfix_str(f"loss {loss:.4f}")
            recent = []
        if run.step % config.checkpoint_every == 0 or run.step == config.steps:
            _save(run)
        bar.update()
    bar.close()
    return NetworkDenoiser(run.ema.network, denoiser.sde, denoiser.parameterization, denoiser.conditioning).eval()


def _built(config: ConfigDict, field: str, kind: type) -> Any:
    """The object of a field; ValueError for one of another kind."""
    built = build(config[field])
    if not isinstance(built, kind):
        article = "an" if kind.__name__[0] in "AE" else "a"
        raise ValueError(f"config.{field} must be {article} {kind.__name__}, got {config[field]}")
    return built


def _save(run: Run) -> None:
    moments = run.optimizer.state_dict()["state"]
    optimizer = {f"{index}.{key}": value for index, state in moments.items() for key, value in state.items()}
    tensors = {"network": run.denoiser.network.state_dict(), "ema": run.ema.network.state_dict(), "optimizer": optimizer}
    state = {
        "generator": bytes(run.generator.get_state().tolist()).hex(),
        "config": run.config.to_dict(),
        "data": {"shape": run.dataset.shape, "range": run.dataset.range},
    }
    save_checkpoint(run.workdir, run.step, tensors, state, keep=run.config.keep)


def _restore(run: Run) -> None:
    checkpoint = open_checkpoint(run.workdir)
    run.denoiser.network.load_state_dict(checkpoint.tensors("network"))
    run.ema.network.load_state_dict(checkpoint.tensors("ema"))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in checkpoint.tensors("optimizer").items():
        index, key = name.split(".")
        moments.setdefault(int(index), {})[key] = value
    run.optimizer.load_state_dict({**run.optimizer.state_dict(), "state": moments})
    run.generator.set_state(torch.tensor(list(bytes.fromhex(checkpoint.state["generator"])), dtype=torch.uint8))
    run.step = checkpoint.state["step"]


def _trim_log(path: Path, step: int) -> None:
    """Drops the lines of steps that will be done again."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines(keepends=True) if json.loads(line)["step"] <= step]
        path.write_text("".join(lines))


def _divergence(run: Run, losses: Tensor, t: Tensor, indices: Tensor) -> str:
    saved = checkpoints(run.workdir)
    bad = ~losses.detach().isfinite().cpu()
    where = bad if bad.any() else torch.ones_like(bad)  # finite losses, infinite gradient: any sample may be the one
    return (
        f"the loss or its gradient is not finite at step {run.step}: loss {losses.mean().item():.4g},"
        f" t = {t.cpu()[where].tolist()[:4]}, samples {indices[where].tolist()[:4]} of the training data;"
        f" the last good checkpoint is {saved[-1] if saved else '(none)'}; lower config.lr or raise the smallest time"
    )
