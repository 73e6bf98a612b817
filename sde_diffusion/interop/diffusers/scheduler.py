"""Any solver that is a table, as a scheduler of diffusers' pipelines.  Needs `pip install 'sde_diffusion[diffusers]'`.

A pipeline owns the loop: it asks for the labels of all network calls, shows c_in x to its model and hands over one output F after another.
With x0_hat = c_skip x + c_out F each of them moves a `Walk` (walk.py) on through the solver's table.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers.conditioning import Conditioning, TimeLabel
from sde_diffusion.denoisers.parameterizations import LearnedVariance, Parameterization
from sde_diffusion.expressions import build
from sde_diffusion.interop.diffusers.schedules import read_schedule
from sde_diffusion.interop.diffusers.walk import Walk
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_positive
from sde_diffusion.shapes import expand
from sde_diffusion.solvers.base import Solver
from sde_diffusion.solvers.fitted import FittedSolver
from sde_diffusion.solvers.grids import Grid
from sde_diffusion.solvers.sampling import times_of_steps

try:
    from diffusers import ConfigMixin, SchedulerMixin
    from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
    from diffusers.utils.torch_utils import randn_tensor
except ImportError as error:
    raise ImportError(f"TableauScheduler is a scheduler of diffusers: {error}; pip install 'sde_diffusion[diffusers]'") from error

LABELS = 999.0  # times t: the labels of a continuous process, score_sde's for VP
LENGTH = 1000  # of a process that is no chain, where a training script asks for the number of labels
_WHOLE = 1e-6  # by which labels may miss whole numbers that they mean


class TableauScheduler(SchedulerMixin, ConfigMixin):
    """A solver, process and parameterization as a diffusers scheduler: `pipe.scheduler = TableauScheduler(UniPC(), sde)`.

    All arguments are objects or their expressions, such as "DDIM(eta=0.5)", which is how a configuration stores them; a `FittedSolver` is
    stored whole.

    Args:
        solver: one that is a table.
        sde: the process that the model was trained for; for Stable Diffusion a `DDPMChain`.
        parameterization: what the model predicts, diffusers' `prediction_type`.
        conditioning: the labels of `timesteps`; by default n t - 1 for a chain of n steps, else 999 t.
        grid: such as `karras(rho=7.0)`; None for the solver's own.
        clip: largest absolute value of x0_hat, > 0, diffusers' `clip_sample_range`; None: any. The noise prediction follows from what
            is left, as with DDIMScheduler's use_clipped_model_output=True.

    Attributes:
        timesteps: the label of every network call, int64 if all are whole, else float32.
        order: network calls of a step.
        init_noise_sigma: what standard normal numbers are multiplied with to be the state of the first call.

    Raises:
        ValueError: for an expression that builds something else, or a solver without a table.
    """

    def __init__(
        self,
        solver: Solver | str | Mapping[str, Any] = "DPMSolverPP()",
        sde: AffineSDE | str = "DDPMChain(linear_betas(1000))",
        parameterization: Parameterization | str = "Epsilon()",
        conditioning: Conditioning | str | None = None,
        grid: Grid | str | None = None,
        clip: float | None = None,
    ) -> None:
        if clip is not None:
            check_positive(clip=clip)
        self.clip = clip
        self.solver: Solver = _built("solver", solver, Solver, "DDIM()")
        self.sde: AffineSDE = _built("sde", sde, AffineSDE, "VPSDE()")
        self.parameterization: Parameterization = _built("parameterization", parameterization, Parameterization, "Epsilon()")
        length = self.sde.length
        default = TimeLabel(LABELS) if length is None else TimeLabel(float(length), -1.0)
        self.conditioning: Conditioning = (
            default if conditioning is None else _built("conditioning", conditioning, Conditioning, "SigmaLabel()")
        )
        self.grid: Grid | None = None if grid is None else _built("grid", grid, Grid, "karras(rho=7.0)")
        self.register_to_config(
            solver=self.solver.columns() if isinstance(self.solver, FittedSolver) else repr(self.solver),
            sde=repr(self.sde),
            parameterization=repr(self.parameterization),
            conditioning=None if conditioning is None else repr(self.conditioning),
            grid=None if grid is None else repr(self.grid),
            clip=clip,
        )
        self.set_timesteps()
        self.num_inference_steps: int | None = None

    @classmethod
    def like(cls, scheduler: SchedulerMixin, solver: Solver | str, *, grid: Grid | str | None = None) -> TableauScheduler:
        """Another solver for the model of a pipeline: `pipe.scheduler = TableauScheduler.like(pipe.scheduler, UniPC())`.

        Args:
            scheduler: the pipeline's own, which tells the process, prediction and clipping.
            solver: one that is a table.
            grid: such as `karras(rho=7.0)`; None for the solver's own, whatever the spacing of `scheduler`.

        Raises:
            ValueError: for a scheduler whose model is not understood, or that thresholds dynamically.
        """
        config = {**scheduler.config, "_class_name": type(scheduler).__name__}
        schedule = read_schedule(config)
        if schedule.threshold is not None:
            raise ValueError("thresholding=True is not done by a TableauScheduler; set thresholding=False, or sample with from_diffusers")
        kind = schedule.parameterization
        if str(config.get("variance_type")).startswith("learned"):
            kind = LearnedVariance(kind)
        return cls(solver, schedule.sde, kind, schedule.conditioning, grid, schedule.clip)

    def __len__(self) -> int:
        """Number of labels that a model was trained with: a chain's length, else 1000."""
        return self.sde.length or LENGTH

    @property
    def nfe(self) -> int:
        """Network calls of a run: the number of `timesteps`."""
        return len(self.timesteps)

    @property
    def step_index(self) -> int | None:
        """Number of the next call, None before the first."""
        return self._walk.next

    def set_timesteps(self, num_inference_steps: int | None = None, device: torch.device | str | None = None) -> None:
        """Makes the table of so many steps of the solver, and begins a new run.

        Args:
            num_inference_steps: steps, not network calls, of which there are `nfe`; None for the solver's default.
            device: of `timesteps`.

        Raises:
            ValueError: for a number of steps that the solver or the grid does not have.
        """
        grid = times_of_steps(self.sde, self.solver, num_inference_steps, self.grid)
        self._walk = Walk(self.solver, self.sde, grid)
        self.num_inference_steps, self.order, self.init_noise_sigma = len(grid) - 1, self._walk.order, self._walk.std
        skip, out, into, label = self.parameterization.scalings(self.sde, self._walk.times, self.conditioning)
        self._scalars = list(zip(skip.tolist(), out.tolist(), into.tolist(), strict=True))
        whole = bool(((label - label.round()).abs() < _WHOLE).all())
        labels = label.round().long() if whole else label.float()
        self.timesteps, self._labels = labels.to(device), labels.tolist()

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Lets the run begin at another call, the first of its step, as for the editing of images.

        A multistep solver then makes a table for the rest of the grid, for it has no predictions from before.

        Raises:
            ValueError: where the solver cannot begin there.
        """
        if not 0 <= begin_index < self.nfe:
            raise ValueError(f"begin_index must be the number of one of the {self.nfe} network calls, from 0, got {begin_index}")
        self._walk.begin(begin_index)

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor) -> Tensor:
        """c_in x at the time of the next call, what the model is to be shown of the state x."""
        scale = self._scalars[self._arrived(timestep)][2]
        return sample if scale == 1 else sample * scale

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> DDPMSchedulerOutput | tuple[Tensor, Tensor]:
        """The state of the next call, or at last the sample.

        Args:
            model_output: F, of the shape of the sample, or with twice its channels for a LearnedVariance.
            timestep: the label of the call: the next of `timesteps`. (On an accelerator only a run's first is looked at.)
            sample: the state x that the call was made at, before `scale_model_input`; half precision is computed in float32.
            generator: where noise is drawn from, or one for each sample; None for torch's global one.
            return_dict: whether to return an output with fields.

        Returns:
            prev_sample, the state, and pred_original_sample, x0_hat of this call; of the dtype of `sample`.

        Raises:
            ValueError: before `set_timesteps`, after the last call, for a timestep out of order, or an output of another shape.
        """
        i = self._arrived(timestep)
        if self.parameterization.learns_variance:
            model_output = model_output[:, : sample.shape[1]]
        if model_output.shape != sample.shape:
            raise ValueError(f"the model returned shape {tuple(model_output.shape)} for a state of shape {tuple(sample.shape)}; split it?")
        if self._walk.next is None:
            self._walk.begin(i)
        x = sample.to(torch.promote_types(sample.dtype, torch.float32))
        raw, (skip, out, _) = model_output.to(x), self._scalars[i]
        x0_hat = torch.add(raw * out, x, alpha=skip)
        if self.clip is not None:
            raw, skip, out = x0_hat.clamp_(-self.clip, self.clip), 0.0, 1.0

        def noise(x: Tensor) -> Tensor:
            return randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)

        x = self._walk.advance(x, raw, skip, out, noise).to(sample.dtype)
        x0_hat = x0_hat.to(sample.dtype)
        return DDPMSchedulerOutput(prev_sample=x, pred_original_sample=x0_hat) if return_dict else (x, x0_hat)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha x_0 + sigma eps at the times of which `timesteps` () or (b,) are the labels, any of those a model was trained with."""
        return self.sde.perturb(original_samples, self.conditioning.time(self.sde, timesteps.to(original_samples.device)), noise)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """(alpha eps - sigma x_0)/sqrt(alpha^2 + sigma^2), what a model of the parameterization V predicts; `sample` is x_0."""
        t = self.conditioning.time(self.sde, timesteps.to(sample.device))
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        size = torch.hypot(alpha, sigma)
        return expand(alpha / size, sample) * noise - expand(sigma / size, sample) * sample

    def save_config(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Writes scheduler_config.json.

        Raises:
            ValueError: if the solver, the process or another part has no expression that builds it again.
        """
        for name in ("solver", "sde", "parameterization", "conditioning", "grid"):
            text = self.config[name]
            try:
                again = repr(build(text)) if isinstance(text, str) else text
            except ValueError as error:
                raise ValueError(f"the {name} cannot be saved: {error}") from error
            if again != text:
                raise ValueError(f"the {name} cannot be saved: {text} does not build it again; give it a repr that does")
        super().save_config(save_directory, push_to_hub, **kwargs)

    def _arrived(self, timestep: float | Tensor) -> int:
        """The number of the call that is to have this label."""
        if self.num_inference_steps is None:
            raise ValueError("the scheduler does not know the number of steps yet; call set_timesteps(n) first")
        i = self._walk.next
        if i is None:
            found = [i for i, label in enumerate(self._labels) if label == float(timestep)]
            if not found:
                raise ValueError(f"timestep {float(timestep):g} is none of those of set_timesteps, {_some(self._labels)}")
            return next(filter(self._walk.starts_step, found), found[0])
        if i == self.nfe:
            raise ValueError(f"all {self.nfe} network calls of the run are made; call set_timesteps(n) for another")
        on_host = not isinstance(timestep, Tensor) or timestep.device.type == "cpu"  # to look at another would stop the host
        if on_host and float(timestep) != self._labels[i]:
            wanted = f"call {i} of the run is the one at timestep {self._labels[i]:g}"
            raise ValueError(f"{wanted}, got {float(timestep):g}; step once through `timesteps`, in order")
        return i


def _some(values: list[float]) -> str:
    return ", ".join(f"{v:g}" for v in values[:4]) + (", ..." if len(values) > 4 else "")


def _built(name: str, value: Any, kind: type, example: str) -> Any:
    """The object, built from its expression or a fitted solver's columns if it is not one yet."""
    if isinstance(value, str):
        value = build(value)
    elif isinstance(value, Mapping):
        value = FittedSolver.from_columns(value)
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be a {kind.__name__} or its expression, such as {example}, got {value!r}")
    return value
