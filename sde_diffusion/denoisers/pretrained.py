"""Denoisers handed on: written into a folder, see model_folder.py, or to the hub, and built again from there."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from sde_diffusion import expressions
from sde_diffusion.denoisers import hub
from sde_diffusion.denoisers.base import Denoiser
from sde_diffusion.denoisers.blueprint import Blueprint, check_fit
from sde_diffusion.denoisers.model_card import ModelCard
from sde_diffusion.denoisers.model_folder import CARD, DESCRIPTION, FITTED, FORMAT, MODEL, checksum, locate, read
from sde_diffusion.denoisers.network import NetworkDenoiser


def save_pretrained(
    denoiser: Denoiser,
    folder: str | os.PathLike[str],
    *,
    card: ModelCard | None = None,
    network: str | None = None,
    names: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    title: str | None = None,
) -> Path:
    """Writes a denoiser: its network's weights, the tables fitted to it and a model card.

    Args:
        denoiser: a NetworkDenoiser.
        folder: made if need be; other files in it are left alone.
        card: what the model card is to say of the data, the metrics and the license.
        network: the expression that builds the network, such as "MyNet(width=64)"; None for networks that know theirs.
        names: what the expressions name beside the package's own, such as `{"MyNet": MyNet}`; to be given when loading, too.
        overwrite: whether to replace a model that is there.
        title: what the card calls the model; None for the folder's name.

    Returns:
        The folder.

    Raises:
        ValueError: for a denoiser that is no network, or whose expressions do not build it again.
        FileExistsError: if a file exists that is not to be replaced.
    """
    blueprint = Blueprint.of(denoiser, network, names)
    assert isinstance(denoiser, NetworkDenoiser)
    folder, fitted = Path(folder), {f"{FITTED}/{nfe}.json": solver for nfe, solver in sorted(denoiser.fitted.items())}
    files = [MODEL, *fitted, CARD, DESCRIPTION]
    existing = [file for file in files if (folder / file).exists()]
    if existing and not overwrite:
        raise FileExistsError(f"{folder} has {', '.join(existing)} already; pass overwrite=True to replace them, or another folder")

    for parent in {(folder / file).parent for file in files}:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="writing-", dir=folder) as name:
        staging = Path(name)
        # cloned: tied weights share their memory, which safetensors refuses
        tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in denoiser.network.state_dict().items()}
        (staging / MODEL).write_bytes(save(tensors))
        (staging / FITTED).mkdir()
        for file, solver in fitted.items():
            solver.save(staging / file)
        sums = {file: checksum(staging / file) for file in (MODEL, *fitted)}
        versions = {"torch": torch.__version__, "python": platform.python_version()}
        content = {"format": FORMAT, **dataclasses.asdict(blueprint), "versions": versions, "sha256": sums}
        (staging / DESCRIPTION).write_text(json.dumps(content, indent=1), encoding="utf-8")
        text = (card or ModelCard()).text(
            title or folder.resolve().name, dataclasses.asdict(blueprint), denoiser.network, sorted(denoiser.fitted)
        )
        (staging / CARD).write_text(text, encoding="utf-8")
        for file in files:
            os.replace(staging / file, folder / file)
    for path in (folder / FITTED).glob("*.json"):
        if f"{FITTED}/{path.name}" not in fitted and path.stem.isdigit():
            path.unlink()  # fitted to the model that is replaced
    return folder


def load_pretrained(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    names: Mapping[str, Any] | None = None,
) -> NetworkDenoiser:
    """The denoiser of a folder that `save_pretrained` wrote, or of a model on the hub: in evaluation mode and without gradients.

    Args:
        source: the folder, or "user/name" on the hub where there is no such folder.
        revision: branch, tag or commit on the hub.
        device: where the weights go.
        names: what the expressions name beside the package's own, such as `{"MyNet": MyNet}`.

    Raises:
        FileNotFoundError: if there is no such model.
        OSError: if it cannot be fetched from the hub.
        ValueError: if the files are not what was written, or do not fit each other.
    """
    folder = locate(source, revision)
    content = read(folder)
    blueprint = Blueprint(**{field.name: content[field.name] for field in dataclasses.fields(Blueprint)})
    try:
        tensors = load((folder / MODEL).read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{folder / MODEL} is no safetensors file ({error}); fetch or save it again") from error
    denoiser = blueprint.build(names)
    check_fit(tensors, denoiser.network, f"{folder / MODEL} and {blueprint.network}")
    _fill(denoiser.network, tensors)
    denoiser.fitted = {int(Path(file).stem): _fitted(folder / file, repr(denoiser.sde)) for file in content["sha256"] if file != MODEL}
    return denoiser.requires_grad_(False).eval().to(device)


def push_to_hub(
    denoiser: Denoiser,
    repo_id: str,
    *,
    card: ModelCard | None = None,
    network: str | None = None,
    names: Mapping[str, Any] | None = None,
    private: bool = False,
    token: str | None = None,
    message: str = "Upload a denoiser",
) -> str:
    """Uploads what `save_pretrained` writes as one commit, and returns the model's URL.

    Args:
        denoiser: a NetworkDenoiser.
        repo_id: user/name.
        card: as in `save_pretrained`, and so are `network` and `names`.
        private: whether only its owners see the model, if it is new.
        token: of access with the right to write; None for the one of `hf auth login`.
        message: of the commit.

    Raises:
        ImportError: without huggingface_hub.
        ValueError: for a denoiser that cannot be saved, or another repo_id than user/name.
    """
    hub.check_id(repo_id)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(denoiser, folder, card=card, network=network, names=names, title=repo_id)
        return hub.upload(Path(folder), repo_id, private=private, token=token, message=message, stale=f"{FITTED}/*.json")


def _fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Gives a network its tensors, in their dtypes."""
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:
        network.to(next(iter(dtypes)))  # buffers that are not saved, too
    network.load_state_dict(tensors, assign=len(dtypes) > 1)


def _fitted(path: Path, sde: str) -> Any:
    """A fitted table, once the process in its file is the denoiser's: `load` would build any expression."""
    found = json.loads(path.read_text(encoding="utf-8")).get("fitted", {}).get("sde")
    if found != sde:
        raise ValueError(f"{path} was fitted for {found!r}, and the denoiser's process is {sde}; save the denoiser that it was fitted to")
    return expressions.build("FittedSolver").load(path)  # by its public name: solvers stand on denoisers
