"""The weights and moments of a network in one form, whatever holds them.

    weights    {"first.weight": ...}            moments    {"first.weight:exp_avg": ..., "first.weight:step": ...}

DistributedDataParallel, FSDP and torch.compile are torch.distributed.checkpoint's to see through; DeepSpeed, which flattens and shards by
its own rules (stages 1 and 2), is asked parameter by parameter. So any number of processes goes on from what any other wrote.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor

if TYPE_CHECKING:
    from accelerate import Accelerator

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam and AdamW; besides, the number of updates, "step"
STAGES = (1, 2)  # of DeepSpeed's ZeRO, those that keep each weight whole


def gather(network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights and moments, on the CPU; every process takes part, and the main one has them all."""
    module = _inside_deepspeed(network)
    if module is not None:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        parameters = dict(module.named_parameters())
        weights = dict(module.state_dict()) | {name: safe_get_full_fp32_param(p) for name, p in parameters.items()}
        moments = {f"{name}:{key}": safe_get_full_optimizer_state(p, key) for name, p in parameters.items() for key in MOMENTS}
        step = max(float(state["step"]) for state in _plain(optimizer).state.values())
        return weights, moments | {f"{name}:step": torch.tensor(step) for name in parameters}
    states: Any = get_optimizer_state_dict(network, _plain(optimizer), options=WHOLE).get("state", {})  # on the main process only
    return get_model_state_dict(network, options=WHOLE), {
        f"{n}:{key}": value for n, state in states.items() for key, value in state.items()
    }


def restore(network: nn.Module, optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    """Gives an optimiser the moments that `gather` returned; every process takes part. The weights are loaded before they are wrapped."""
    plain = _plain(optimizer)
    module = _inside_deepspeed(network)
    if module is not None:
        from deepspeed.utils import safe_set_full_optimizer_state

        step = max(value for name, value in moments.items() if name.endswith(":step"))
        for group in plain.param_groups:  # Adam's state begins with its first step, and DeepSpeed's fragments of it with its own first
            for flat in group["params"]:
                plain.state[flat] = {"step": step.clone(), **{key: torch.zeros_like(flat) for key in MOMENTS}}
        sharded: Any = network.optimizer
        sharded._lazy_init_hp_params_optimizer_state()
        for name, p in module.named_parameters():
            for key in MOMENTS:
                safe_set_full_optimizer_state(p, moments[f"{name}:{key}"].to(p.device), key)
        return
    states: dict[str, Any] = {}
    for name, value in moments.items():
        path, key = name.rsplit(":", 1)
        states.setdefault(path, {})[key] = value
    groups: Any = get_optimizer_state_dict(network, plain)["param_groups"]
    set_optimizer_state_dict(network, plain, {"state": states, "param_groups": groups}, options=WHOLE)


def whole(value: Tensor) -> Tensor:
    """A tensor of which this process may hold a part; every process takes part."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def shard_like(average: nn.Module, wrapped: nn.Module) -> None:
    """Shards the parameters of an average as those of the network, where that is sharded (FSDP); else nothing is done."""
    shards = {name.replace("_orig_mod.", ""): p for name, p in wrapped.named_parameters() if isinstance(p, DTensor)}
    for path, p in list(average.named_parameters()):
        if path in shards:
            owner, _, leaf = path.rpartition(".")
            placed = distribute_tensor(p.data, shards[path].device_mesh, shards[path].placements)
            setattr(average.get_submodule(owner), leaf, nn.Parameter(placed, requires_grad=False))


def unsharded(module: nn.Module) -> nn.Module:
    """The module, or a copy of it with whole parameters where it is sharded; every process takes part."""
    if not any(isinstance(p, DTensor) for p in module.parameters()):
        return module
    copied = copy.deepcopy(module)
    for path, p in list(copied.named_parameters()):
        owner, _, leaf = path.rpartition(".")
        setattr(copied.get_submodule(owner), leaf, nn.Parameter(whole(p.data), requires_grad=False))
    return copied


def configure_sharding(accelerator: Accelerator, *, batch_size: int, accumulate: int, clip: float) -> None:
    """Checks what accelerate was launched with, and tells DeepSpeed what it does by itself: clipping and accumulating.

    Raises:
        ValueError: for FSDP 1 and for DeepSpeed's stage 3, whose weights averages cannot follow.
    """
    if accelerator.distributed_type.value == "FSDP" and accelerator.state.fsdp_plugin.fsdp_version != 2:
        raise ValueError("FSDP 1 flattens weights, which averages cannot follow; launch with --fsdp_version 2")
    plugin = accelerator.state.deepspeed_plugin
    if plugin is None:
        return
    if plugin.zero_stage not in STAGES:
        raise ValueError(
            f"DeepSpeed's ZeRO stage {plugin.zero_stage} cannot be used, as averages cannot follow weights that are split;"
            " use stage 1 or 2, or FSDP, which shards weights too"
        )
    plugin.deepspeed_config |= {
        "train_micro_batch_size_per_gpu": batch_size // accelerator.num_processes // accumulate,
        "gradient_accumulation_steps": accumulate,
        "gradient_clipping": clip,
    }


def _inside_deepspeed(network: nn.Module) -> nn.Module | None:
    """The network inside DeepSpeed's engine, if it is one."""
    module: Any = network.module if type(network).__module__.startswith("deepspeed.") else None
    return module


def _plain(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser inside accelerate's, and DeepSpeed's."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer
