"""Checkpoints: folders of safetensors and one JSON file, written as a whole or not at all, never pickled.

    workdir/checkpoints/00001000/{network,optimizer}.safetensors          the weights and the optimiser's moments
                                 beside*.safetensors                      what is trained beside the network, if anything: beside.py
                                 ema-{0.999,power-0.05,...}.safetensors   each average of the weights
                                 state.json                               step, position in the data, configuration, versions, checksums
                                 errors.json                              the model's errors, once they are asked for
                                 trajectories.{safetensors,json}          its accurate paths, how many and from which seed, likewise
                                 fitted/{5,8,...}.json                    the tables fitted to it, by the number of network calls

A checkpoint is written under another name, flushed to the disk and then renamed, which is atomic: whenever the process
dies, the folders whose names are numbers are complete. Random numbers are functions of (seed, step, position), so none are kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from sde_diffusion import expressions
from sde_diffusion.data import load as load_data
from sde_diffusion.denoisers import NetworkDenoiser
from sde_diffusion.files import TEMPORARY, write_atomically
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.learned import LearnedSDE
from sde_diffusion.solvers import FittedSolver, ReconstructionError, Trajectories
from sde_diffusion.training.beside import AVERAGE, GROUP
from sde_diffusion.training.post_hoc import reconstruct

FORMAT = 2
READABLE = (1, 2)
"""What weights are read from; 1 had one average, and cannot be resumed."""

FOLDER = "checkpoints"
FITTED = "fitted"
MEASURED = 10_000  # samples at most that errors are measured on


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON to a file as a whole or not at all."""
    write_atomically(path, json.dumps(content, indent=1).encode())


def save_checkpoint(
    workdir: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], *, keep: int, keep_every: int = 0
) -> Path:
    """Writes the checkpoint of a step atomically and removes old ones.

    Args:
        workdir: folder of the run.
        step: number of updates done.
        tensors: groups of named tensors, one safetensors file each.
        state: what else is to be kept, as JSON.
        keep: how many of the newest stay, at least 1.
        keep_every: those of the multiples of so many steps stay too; 0 for none.

    Raises:
        OSError: where the disk is full or cannot be written; the last checkpoint is then as it was.
    """
    try:
        final = _save(workdir / FOLDER, step, tensors, state)
    except OSError as error:
        last = str(checkpoints(workdir)[-1]) if checkpoints(workdir) else "there is none"
        raise OSError(
            f"cannot write the checkpoint of step {step} to {workdir} ({error.strerror or error}); the last one is whole ({last}):"
            " make room there, then go on with --resume"
        ) from error
    for old in checkpoints(workdir)[:-keep]:
        if not (keep_every and int(old.name) % keep_every == 0):
            shutil.rmtree(old)
    return final


def _save(folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for abandoned in folder.glob(TEMPORARY + "*"):
        shutil.rmtree(abandoned)
    temporary, final = folder / f"{TEMPORARY}{step:08d}", folder / f"{step:08d}"
    temporary.mkdir()
    checksums = {}
    for name, group in tensors.items():
        content = save({key: tensor.detach().cpu().contiguous() for key, tensor in group.items()})
        checksums[name] = hashlib.sha256(content).hexdigest()
        _write(temporary / f"{name}.safetensors", content)
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    state = {"format": FORMAT, "step": step, **state, "versions": versions, "sha256": checksums}
    _write(temporary / "state.json", json.dumps(state, indent=1).encode())
    _sync(temporary)
    os.rename(temporary, final)
    _sync(folder)
    return final


def checkpoints(workdir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(path for path in (workdir / FOLDER).glob("*") if path.name.isdigit())


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the disk: its folder and the content of its state.json."""

    path: Path
    state: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """One group of tensors: "network", "optimizer" or "ema-" and the name of an average.

        Raises:
            ValueError: when the file is missing or not what was written.
        """
        try:
            content = (self.path / f"{name}.safetensors").read_bytes()
            if hashlib.sha256(content).hexdigest() != self.state["sha256"][name]:
                raise _damaged(self.path, f"the checksum of {name}.safetensors does not match")
            return load(content)
        except (OSError, KeyError, SafetensorError) as error:
            raise _damaged(self.path, f"{name}.safetensors: {error}") from error

    @property
    def step(self) -> int:
        """Number of updates done."""
        return int(self.state["step"])

    @property
    def averages(self) -> tuple[str, ...]:
        """Names of the averages of the weights that are kept, the one to sample from first."""
        return tuple(self.state.get("averages", ()))

    def weights(self, ema: bool | str | float = True) -> dict[str, Tensor]:
        """The network's weights: the first average (True), the last weights (False), the average of that name or of that relative width.

        Raises:
            ValueError: for a name that is not kept, or a width that cannot be made of the run's snapshots.
        """
        if ema is False:
            return self.tensors("network")
        if ema is True:
            return self.tensors(f"ema-{self.averages[0]}" if self.averages else "ema")
        if isinstance(ema, float):
            return reconstruct(self.path.parent.parent, ema, step=self.step)
        if ema not in self.averages:
            raise ValueError(f"{self.path} keeps no average {ema!r}, only {', '.join(self.averages)}; a width such as 0.08 takes snapshots")
        return self.tensors(f"ema-{ema}")

    def denoiser(self, *, ema: bool | str | float = True, network: nn.Module | None = None) -> NetworkDenoiser:
        """The denoiser of the run in evaluation mode on the CPU.

        The tables fitted to the first average travel with it, as its attribute `fitted`.

        Args:
            ema: which weights, as `weights` says.
            network: to load them into, for a run whose network was a module of your own.
        """
        config = self.state["config"]
        if network is None:
            with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and then replaced
                network = expressions.build(config["network"])
        network.load_state_dict(self.weights(ema))
        parts = (config["parameterization"], config.get("conditioning", "LogNoise()"))  # once the only one
        denoiser = NetworkDenoiser(network, self.sde(ema=ema), *map(expressions.build, parts)).requires_grad_(False).eval()
        denoiser.fitted = self.fitted() if ema is True else {}
        return denoiser

    def sde(self, *, ema: bool | str | float = True) -> AffineSDE:
        """The process of the run; a learned one as a table, of the average that `ema` says, as in `weights`.

        Snapshots hold none, so to the weights of a width goes the first average of the process: a denoiser learns what to make of a
        noise level, and at which time a schedule has it makes little of a difference.
        """
        sde: AffineSDE = expressions.build(self.state["config"]["sde"])
        if not isinstance(sde, LearnedSDE):
            return sde
        if ema is False:
            tensors = {name.removeprefix("sde."): value for name, value in self.tensors(GROUP).items() if name.startswith("sde.")}
        else:
            tensors = self.tensors(AVERAGE.format(ema if isinstance(ema, str) else self.averages[0]))
        sde.load_state_dict(tensors)
        return sde.frozen()

    def errors(self) -> ReconstructionError:
        """The error of `denoiser()` at each noise level, for `Ancestral("analytic", errors)` and `dynamic_programming(errors=errors)`.

        Measured on the run's held-out data when it is asked for first, then kept beside the weights in errors.json.
        """
        path = self.path / "errors.json"
        if not path.exists():
            held_out = load_data(self.state["config"]["data"]).held_out.up_to(MEASURED).x
            ReconstructionError.estimate(self.denoiser(), held_out, generator=torch.Generator().manual_seed(0)).save(path)
        return ReconstructionError.load(path)

    def trajectories(self, n: int = 128, *, seed: int = 0, device: str | torch.device = "cpu", overwrite: bool = False) -> Trajectories:
        """Accurate paths of `denoiser()`, for `fit(denoiser, nfe, trajectories=...)`.

        Solved when they are asked for first, then kept beside the weights in trajectories.safetensors.

        Args:
            n: how many.
            seed: of their starts.
            device: where they are solved, and returned.
            overwrite: whether to replace those that are kept, where they are others.

        Raises:
            ValueError: if others are kept, and not to be replaced.
        """
        path, settings = self.path / "trajectories.safetensors", self.path / "trajectories.json"
        wanted = {"number": n, "seed": seed}
        kept = json.loads(settings.read_text()) if settings.exists() and path.exists() else None
        if kept is not None and kept != wanted and not overwrite:
            raise ValueError(
                f"{path} holds {kept['number']} paths of seed {kept['seed']}, not {n} of seed {seed}; "
                f"take those with n={kept['number']}, seed={kept['seed']}, or replace them with overwrite"
            )
        if kept != wanted:
            denoiser = self.denoiser().to(device)
            shape, generator = (n, *self.state["data"]["shape"]), torch.Generator().manual_seed(seed)
            made = Trajectories.generate(denoiser, shape=shape, generator=generator)
            settings.unlink(missing_ok=True)  # written last: where it is, the paths are whole and its own
            path.unlink(missing_ok=True)
            made.save(path)
            write_json(settings, wanted)
        loaded = Trajectories.load(path)
        return dataclasses.replace(loaded, states=loaded.states.to(device))

    def fitted(self) -> dict[int, FittedSolver]:
        """The tables fitted to `denoiser()`, by their budget of network calls, in rising order; empty where there are none.

        Raises:
            ValueError: for a file that holds something else.
        """
        found = sorted((int(path.stem), path) for path in (self.path / FITTED).glob("*.json") if path.stem.isdigit())
        return {nfe: FittedSolver.load(path) for nfe, path in found}

    def keep_fitted(self, nfe: int, solver: FittedSolver, *, overwrite: bool = False) -> Path:
        """Writes a table fitted to `denoiser()` for a budget, as a whole or not at all.

        Raises:
            FileExistsError: if the budget has one that is not to be replaced.
        """
        path = self.path / FITTED / f"{nfe}.json"
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(TEMPORARY + path.name)
        temporary.unlink(missing_ok=True)
        solver.save(temporary)
        os.replace(temporary, path)
        return path


def _damaged(path: Path, cause: str) -> ValueError:
    others = [str(other) for other in checkpoints(path.parent.parent) if other != path]
    cure = f"use {others[-1]} instead" if others else "train again with --overwrite"
    return ValueError(f"the checkpoint {path} is damaged ({cause}); {cure}")


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The newest checkpoint of a run's workdir, or the one whose folder is given.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: for a damaged one.
    """
    path = Path(path)
    if not (path / "state.json").exists() and not path.name.isdigit():
        found = checkpoints(path)
        if not found:
            raise FileNotFoundError(f"no checkpoint in {path}; train one with `sde-diffusion train --workdir {path}`"
                                    " or give the folder of an existing run")  # fmt: skip
        path = found[-1]
    try:
        state = json.loads((path / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise _damaged(path, f"state.json: {error}") from error
    if state.get("format") not in READABLE:
        raise ValueError(f"{path} has format {state.get('format')}, this version reads {READABLE}; use the version that wrote it")
    return Checkpoint(path, state)


def load_denoiser(path: str | Path, *, ema: bool | str | float = True) -> NetworkDenoiser:
    """The trained denoiser of a workdir (its newest checkpoint) or of one checkpoint folder.

    Args:
        path: the workdir or the checkpoint's folder.
        ema: which weights: True the first average, which samples better than False, the last ones; or a name or width of an average.
    """
    return open_checkpoint(path).denoiser(ema=ema)
