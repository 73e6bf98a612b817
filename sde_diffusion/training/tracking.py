"""What a run tells of itself: a log, trackers, a progress bar, the loss at each noise level, pictures.

    workdir/log.jsonl        one JSON object per line: {"step": 50, "seconds": 3.1, "loss": 0.21, ..., "loss_by_level": {...}}
    workdir/sde_diffusion/   TensorBoard's events, where config.trackers asks for them: tensorboard --logdir workdir

Numbers stay on their device until they are logged: nothing here waits for the device at every step.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.files import TEMPORARY, write_atomically
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_count
from sde_diffusion.solvers import sample

if TYPE_CHECKING:
    from accelerate import Accelerator

LOG = "log.jsonl"
PROJECT = "sde_diffusion"
TRACKERS = {"tensorboard": "'sde_diffusion[tracking]'", "wandb": "wandb"}
"""The known trackers and what pip installs them from."""


def check_trackers(names: Sequence[str]) -> None:
    """Raises unless every tracker is known and installed (accelerate leaves out in silence those that are not).

    Raises:
        ValueError: for an unknown tracker.
        ModuleNotFoundError: for one whose library is missing.
    """
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"no tracker {name!r}; use {' and '.join(TRACKERS)}, or none for log.jsonl alone")
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"trackers={tuple(names)} needs {name}; pip install {TRACKERS[name]}", name=name)


class History:
    """Writes numbers to log.jsonl and hands them to accelerate's trackers, on the main process only.

    A log that is there is continued: lines of steps after `step`, which will be done again, are dropped, and so is a last line that was
    cut off when the process was killed.

    Args:
        workdir: folder of the run.
        accelerator: of this process, made with the trackers of the configuration; None for a log alone.
        config: what trackers show as the run's settings; its field `trackers` is checked.
        step: number of updates done.

    Raises:
        ValueError, ModuleNotFoundError: for a tracker that is unknown or not installed.
    """

    def __init__(
        self, workdir: Path, accelerator: Accelerator | None = None, *, config: Mapping[str, Any] | None = None, step: int = 0
    ) -> None:
        names = () if config is None else tuple(config.get("trackers", ()))
        check_trackers(names)
        self._started = time.perf_counter()
        self._path, self._main = workdir / LOG, accelerator is None or accelerator.is_main_process
        self._accelerator = accelerator if names else None
        if self._main:
            workdir.mkdir(parents=True, exist_ok=True)
            _trim(self._path, step)
        if self._accelerator is not None:
            settings = {key: value if isinstance(value, (bool, int, float, str)) else repr(value) for key, value in (config or {}).items()}
            # TensorBoard drops what an interrupted run wrote from this step on; W&B is told of the step at each call
            options = {"tensorboard": {"purge_step": step + 1}, "wandb": {"name": workdir.name, "dir": str(workdir)}}
            self._accelerator.init_trackers(PROJECT, config=settings, init_kwargs={name: options[name] for name in names})

    def log(self, step: int, **values: Tensor | float | str | Mapping[str, Any]) -> None:
        """Writes the numbers of a step and hands them to the trackers.

        Args:
            step: number of updates done.
            values: numbers and tensors of one, by name; and what `LossByLevel.result` returns, of which trackers are given the loss of
                each level, as "loss_by_level/3". What is not finite is null in the log, as JSON has no word for it.
        """
        if not self._main:
            return
        seconds = round(time.perf_counter() - self._started, 2)
        line = {"step": step, "seconds": seconds, **{name: _plain(value) for name, value in values.items()}}
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        if self._accelerator is not None:
            flat: dict[str, Any] = {}
            for name, value in line.items():
                levels = value["loss"] if isinstance(value, Mapping) else None
                flat |= {name: value} if levels is None else {f"{name}/{i}": loss for i, loss in enumerate(levels)}
            self._accelerator.log({name: value for name, value in flat.items() if value is not None and name != "step"}, step=step)

    def close(self) -> None:
        """Ends the trackers."""
        if self._accelerator is not None:
            for tracker in self._accelerator.trackers:  # end_training() would leave the process group as well
                tracker.finish()
            self._accelerator.trackers.clear()


class LossByLevel:
    """The mean loss in bins of equal width in log_snr, from the noisiest, at t_max, to the cleanest, at t_min (a chain's first node).

    Args:
        sde: the process.
        bins: how many; times outside of [t_min, t_max] count for the bins at the ends.
        device: where the losses are.

    Raises:
        ValueError: for fewer than one bin.
    """

    def __init__(self, sde: AffineSDE, *, bins: int = 10, device: torch.device | str | None = None) -> None:
        check_count(bins=bins)
        cleanest = sde.t_min if sde.length is None else 1 / sde.length  # at a chain's t_min = 0 the log_snr is infinite
        ends = sde.log_snr(torch.tensor([sde.t_max, cleanest], dtype=torch.float64))
        edges = torch.linspace(float(ends[0]), float(ends[1]), bins + 1, dtype=torch.float64)
        self.edges: list[float] = edges.tolist()
        # log_snr falls with t: a time belongs to the bin of as many inner edges as are later than it
        self._times = sde.t_of_log_snr(edges[1:-1]).flip(0).float().to(device)
        self._sums = torch.zeros(2, bins, device=device)

    def add(self, t: Tensor, losses: Tensor) -> None:
        """Adds the losses (b,) at times (b,), without waiting for the device."""
        bins = self._sums.shape[1]
        index = bins - 1 - torch.bucketize(t.detach().to(self._times), self._times)
        ones = torch.ones_like(losses, dtype=self._sums.dtype)
        self._sums.index_add_(1, index, torch.stack([losses.detach().to(self._sums), ones]))

    def result(self, accelerator: Accelerator | None = None) -> dict[str, list[Any]]:
        """The bins' edges (bins + 1,) in log_snr, mean loss (None where there is none) and count since the last call, of all processes.

        Args:
            accelerator: of this process, all of which take part; None for one process.
        """
        sums = self._sums if accelerator is None else accelerator.reduce(self._sums, "sum")
        total, count = sums.tolist()
        self._sums = torch.zeros_like(self._sums)
        means = [s / n if n and math.isfinite(s) else None for s, n in zip(total, count, strict=True)]
        return {"edges": [round(edge, 4) for edge in self.edges], "loss": means, "count": [int(n) for n in count]}


class Progress:
    """A bar on stderr with the time left and samples per second.

    Args:
        steps: in the whole run.
        initial: those that are done.
        batch_size: samples per step.
        disable: whether to show nothing.
    """

    def __init__(self, steps: int, *, initial: int = 0, batch_size: int = 1, disable: bool = False) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=steps, initial=initial, desc="training", unit="step", disable=disable)
        self._batch_size, self._done, self._since = batch_size, 0, time.perf_counter()

    def update(self) -> None:
        """One step more is done."""
        self._done += 1
        self._bar.update()

    def show(self, **values: Tensor | float) -> None:
        """Shows numbers beside the bar, and the speed since the last call."""
        now = time.perf_counter()
        speed = self._done * self._batch_size / max(now - self._since, 1e-9)
        self._done, self._since = 0, now
        words = [f"{name} {float(value):.4g}" for name, value in values.items()]
        self._bar.set_postfix_str(", ".join([*words, f"{speed:.0f} samples/s"]))

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()


def save_samples(
    denoiser: Denoiser, path: Path, *, shape: Sequence[int], classes: int = 0, seed: int = 0, n: int = 36, nfe: int = 20
) -> Path:
    """Draws samples by the solver "auto" and saves their picture, as a whole or not at all; what has no picture is saved as .npz.

    Args:
        denoiser: what is sampled.
        path: of the picture, such as samples/00001000.png.
        shape: of one sample, (*d).
        classes: how many there are, for a conditional model: sample i is of class i % classes; 0 for none.
        seed: samples have the seeds seed, ..., seed + n - 1: pictures of a run start from the same noise.
        n: how many.
        nfe: network calls.

    Returns:
        The path that was written: .npz, with the array `samples`, in place of `path` for data without a picture.
    """
    import numpy as np

    from sde_diffusion.plotting import picture

    cond = torch.arange(n, device=denoiser.like.device) % classes if classes else None
    x = sample(denoiser, "auto", shape=(n, *shape), nfe=nfe, seeds=range(seed, seed + n), cond=cond).float().cpu()
    drawable = (x.ndim == 4 and x.shape[1] in (1, 3)) or (x.ndim == 2 and x.shape[1] == 2)
    path = path if drawable else path.with_suffix(".npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(TEMPORARY + path.name)
    if drawable:
        picture(x, temporary)
    else:
        np.savez_compressed(temporary, samples=x.numpy())
    os.replace(temporary, path)
    return path


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Tensor):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _trim(path: Path, step: int) -> None:
    """Keeps the lines of a log up to a step, whole ones only, and replaces the file at once."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line + "\n" for line in lines if _step(line) <= step]
    write_atomically(path, "".join(kept).encode())


def _step(line: str) -> float:
    """The step of a line of the log; infinite for one that was cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
