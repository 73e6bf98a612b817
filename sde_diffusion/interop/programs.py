"""Denoisers as programs that need no Python source: x0_hat(x, t) or x0_hat(x, t, cond), for batches of any size.

    model.pt2      torch.export's; PyTorch alone runs it:   torch.export.load("model.pt2").module()(x, t)
    model.onnx     ONNX; onnxruntime runs it:               InferenceSession("model.onnx").run(None, {"x": x, "t": t})

x has the dtype of the model, t (b,) is float64. The formulas of the process and the parameterization are part of the program, in
float64 as in Python. What a program is for, its process among it, is written into it as JSON under the name in METADATA.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from sde_diffusion import expressions
from sde_diffusion.denoisers import Denoiser
from sde_diffusion.shapes import Time, as_time

FORMAT = 1
METADATA = "sde_diffusion.json"
TRACED, TRIED = 2, 3  # batch sizes: of the example, and of the test that the program takes another
DEVIATION = 1e-5  # relative, of the program from the denoiser; measured: 0, for both are the same operations


def export(
    denoiser: Denoiser, path: str | os.PathLike[str], *, shape: Sequence[int], cond: Tensor | None = None, overwrite: bool = False
) -> Path:
    """Writes a denoiser as a program: `.pt2` for PyTorch, `.onnx` for other runtimes (`pip install 'sde_diffusion[onnx]'`).

    Args:
        denoiser: in evaluation mode, a network or a wrapper of one; the program runs on its device. A learned variance is left out.
        path: whose suffix says which program.
        shape: of one state, such as (3, 32, 32); the batch size stays free.
        cond: an example of the condition (n, ...), if the program is to take one; n stands for the batch.
        overwrite: whether to replace a file that is there.

    Raises:
        ValueError: for another suffix, a denoiser in training mode, a condition that is no tensor, or a process without an expression.
        FileExistsError: if there is a file at `path` that is not to be replaced.
        RuntimeError: if the network cannot be traced, or the program computes something else.
        ImportError: without onnxscript, for `.onnx`.
    """
    path = Path(path)
    if path.suffix not in _WRITERS:
        raise ValueError(f"path must end with {' or '.join(_WRITERS)}, got {path.name!r}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")
    if any(module.training for module in denoiser.modules() if not isinstance(module, Denoiser)):  # a wrapper is made in that mode
        raise ValueError("the denoiser is in training mode, where dropout is random; call denoiser.eval() first")
    if expressions.build(repr(denoiser.sde)) != denoiser.sde:
        raise ValueError(f"{denoiser.sde!r} does not build the denoiser's process again; give it a repr that does")
    arguments = _example(denoiser, TRACED, shape, cond)
    with torch.no_grad():
        denoiser(*arguments)  # tables that are computed once are not to be computed while traced; and what does not fit is told plainly
        program = _trace(denoiser, arguments)
        _check(denoiser, program, _example(denoiser, TRIED, shape, cond))
    content = {"format": FORMAT, "sde": repr(denoiser.sde), "shape": list(shape), "cond": cond is not None}
    temporary = path.with_name(f"writing-{path.name}")
    try:
        _WRITERS[path.suffix](program, temporary, json.dumps(content))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load_exported(path: str | os.PathLike[str]) -> ExportedDenoiser:
    """The denoiser of a `.pt2` file that `export` wrote, for `sample` and all else. Open only files whose source you trust: such a file is
    read by torch.export.load, which may unpickle.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for another suffix, or a program that `export` did not write.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; write it with export(denoiser, {path.name!r}, shape=...)")
    if path.suffix != ".pt2":
        raise ValueError(f"path must end with .pt2, got {path.name!r}; for .onnx use onnxruntime.InferenceSession({path.name!r})")
    extra = {METADATA: ""}
    program = torch.export.load(path, extra_files=extra)
    if not extra[METADATA]:
        raise ValueError(f"{path} does not say what it is for; run it with torch.export.load, or write it with export(denoiser, ...)")
    content = json.loads(extra[METADATA])
    if content["format"] != FORMAT:
        raise ValueError(f"{path} has format {content['format']}, this version reads format {FORMAT}; use the version that wrote it")
    return ExportedDenoiser(program, content)


class ExportedDenoiser(Denoiser):
    """A program as a denoiser; made by `load_exported`. It stays in evaluation mode, on its device and in its dtype."""

    def __init__(self, program: ExportedProgram, content: dict[str, Any]) -> None:
        super().__init__(expressions.build(content["sde"]))
        self.shape, self.conditional = tuple(content["shape"]), content["cond"]
        self.program = program.module().requires_grad_(False)
        self.training = False

    def forward(self, x: Tensor, t: Time, cond: Any = None) -> Tensor:
        if x.shape[1:] != self.shape:
            raise ValueError(f"the program takes states (b, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}; export another")
        if (cond is not None) != self.conditional:
            with_, cure = ("with", "pass cond") if self.conditional else ("without", "leave it out, or export with cond=")
            raise ValueError(f"the program was exported {with_} a condition, got cond={cond!r}; {cure}")
        like = self.like
        arguments = x.to(like), as_time(t, x).to(like.device, torch.float64).expand(len(x))
        x0_hat: Tensor = self.program(*arguments) if cond is None else self.program(*arguments, cond)
        return x0_hat.to(x)

    def train(self, mode: bool = True) -> ExportedDenoiser:
        if mode:
            raise ValueError("an exported denoiser is in evaluation mode for good; train the one that was exported")
        return self


def _example(denoiser: Denoiser, n: int, shape: Sequence[int], cond: Tensor | None) -> tuple[Tensor, ...]:
    """Arguments of a batch of n."""
    like, sde = denoiser.like, denoiser.sde
    x = torch.randn((n, *shape), generator=torch.Generator().manual_seed(n)).to(like)
    t = torch.linspace(max(sde.t_min, 0.1 * sde.t_max), sde.t_max, n, dtype=torch.float64, device=like.device)
    if cond is None:
        return x, t
    if not isinstance(cond, Tensor) or not cond.ndim or not len(cond):
        raise ValueError(f"cond must be a tensor (n, ...) with n >= 1, whose first side is the batch, got {cond!r}")
    return x, t, cond[torch.arange(n, device=cond.device) % len(cond)].to(like.device)


def _trace(denoiser: Denoiser, arguments: tuple[Tensor, ...]) -> ExportedProgram:
    b = Dim("b", min=1)
    try:
        # strict: only then is len(x) of a batch of any size more than a number
        return torch.export.export(denoiser, arguments, dynamic_shapes=({0: b},) * len(arguments), strict=True)
    except Exception as error:  # of a dozen kinds
        raise RuntimeError(
            f"a {type(denoiser).__name__} could not be traced ({type(error).__name__}: {error}); the usual causes are branches that depend "
            "on the data, and a batch size that is fixed in the network"
        ) from error


def _check(denoiser: Denoiser, program: ExportedProgram, arguments: tuple[Tensor, ...]) -> None:
    wanted, got = denoiser(*arguments), program.module()(*arguments)
    if not (got - wanted).norm() <= DEVIATION * wanted.norm():
        raise RuntimeError(
            f"the program deviates from the denoiser by {float((got - wanted).norm() / wanted.norm()):.1e}, relative, at a batch of "
            f"{len(wanted)}; does the network draw random numbers, or depend on the size of the batch?"
        )


def _write_pt2(program: ExportedProgram, path: Path, content: str) -> None:
    torch.export.save(program, path, extra_files={METADATA: content})


def _write_onnx(program: ExportedProgram, path: Path, content: str) -> None:
    names = ["x", "t", "cond"][: len(program.graph_signature.user_inputs)]
    try:
        written = torch.onnx.export(program, dynamo=True, verbose=False, input_names=names, output_names=["x0_hat"])
    except ImportError as error:
        raise ImportError("onnx and onnxscript are needed to write .onnx; pip install 'sde_diffusion[onnx]'") from error
    assert written is not None
    written.model.metadata_props[METADATA] = content
    written.save(path)


_WRITERS: dict[str, Callable[[ExportedProgram, Path, str], None]] = {".pt2": _write_pt2, ".onnx": _write_onnx}
SUFFIXES = tuple(_WRITERS)
"""Of the files that `export` writes."""
