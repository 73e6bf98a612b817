"""What builds a network's denoiser again, as text: the expressions of its network, process, parameterization and conditioning.

A blueprint may come from a stranger. It can name the public processes, networks and denoisers of this package, and what the caller
adds to them, nothing else; see expressions.py for what an expression can be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from sde_diffusion import denoisers, expressions, networks, sdes
from sde_diffusion.denoisers.base import Denoiser
from sde_diffusion.denoisers.conditioning import Conditioning
from sde_diffusion.denoisers.network import NetworkDenoiser
from sde_diffusion.denoisers.parameterizations import Parameterization

LISTED = 10  # names of tensors in a message, at most
WRAPPERS = ("module.", "_orig_mod.", "network.", "model.")  # what parallel, compiled and wrapped modules put before the names of tensors
KINDS = {"network": nn.Module, "sde": sdes.AffineSDE, "parameterization": Parameterization, "conditioning": Conditioning}


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """The expressions of a NetworkDenoiser's parts."""

    network: str
    sde: str
    parameterization: str
    conditioning: str

    @staticmethod
    def of(denoiser: Denoiser, network: str | None = None, names: Mapping[str, Any] | None = None) -> Blueprint:
        """The blueprint of a denoiser, checked by building it.

        Args:
            denoiser: a NetworkDenoiser.
            network: the expression of its network; None for networks that know theirs.
            names: what the expressions name beside the package's own, such as `{"MyNet": MyNet}`.

        Raises:
            ValueError: for another denoiser, or if the expressions build another one.
        """
        if type(denoiser) is not NetworkDenoiser:
            raise ValueError(_no_network(denoiser))
        if network is None:
            network = network_expression(denoiser.network)
        elif names is None:
            names = {type(denoiser.network).__name__: type(denoiser.network)}
        blueprint = Blueprint(network, repr(denoiser.sde), repr(denoiser.parameterization), repr(denoiser.conditioning))
        built = blueprint.build(names)
        for part in ("sde", "parameterization", "conditioning"):
            if getattr(built, part) != getattr(denoiser, part):
                raise ValueError(f"{getattr(blueprint, part)} does not build the denoiser's {part} again; give it a repr that does")
        own, other = type(denoiser.network).__name__, type(built.network).__name__
        if type(built.network) is not type(denoiser.network):
            raise ValueError(
                f"{network} builds a network of type {other}, the denoiser's is a {own}; pass network='{own}(...)' and names, "
                "or save the module inside a compiled or parallel one"
            )
        check_fit(denoiser.network.state_dict(), built.network, f"the network and {network}")
        return blueprint

    def build(self, names: Mapping[str, Any] | None = None) -> NetworkDenoiser:
        """The denoiser with an untrained network.

        Raises:
            ValueError: for an expression that builds nothing, or something else.
        """
        known = {**_public(sdes), **_public(networks), **_public(denoisers), **(names or {})}
        parts = {}
        with torch.random.fork_rng(devices=[]):  # weights are drawn, and then replaced
            for part, kind in KINDS.items():
                text = getattr(self, part)
                try:
                    parts[part] = expressions.build(text, known)
                except ValueError as error:
                    cure = "; pass names={...} for what is not the package's own" if "unknown name" in str(error) else ""
                    raise ValueError(f"{part}: {error}{cure}") from error
                if not isinstance(parts[part], kind):
                    raise ValueError(f"{part}: {text!r} builds a {type(parts[part]).__name__}, not a {kind.__name__}")
        return NetworkDenoiser(parts["network"], parts["sde"], parts["parameterization"], parts["conditioning"])


def network_expression(network: nn.Module) -> str:
    """The expression that builds a network, untrained: its attribute `expression`, or its type called with its `config`, a dataclass.

    Raises:
        ValueError: for a network without both.
    """
    name, expression, config = type(network).__name__, getattr(network, "expression", None), getattr(network, "config", None)
    if isinstance(expression, str):
        return expression
    if dataclasses.is_dataclass(config):
        return f"{name}({config!r})"
    raise ValueError(
        f"what builds this {name} is not known: it has neither an attribute `expression`, a text, nor a `config`, a dataclass; "
        f"pass network='{name}(...)' when saving, and names={{'{name}': {name}}} when loading"
    )


def check_fit(tensors: Mapping[str, Tensor], network: nn.Module, what: str) -> None:
    """Raises ValueError unless tensors are those of a network, by name and shape.

    Args:
        tensors: by their names.
        network: whose they should be.
        what: the two of them, for the message.
    """
    wanted = network.state_dict()
    missing, unexpected = [key for key in wanted if key not in tensors], sorted(key for key in tensors if key not in wanted)
    others = [key for key in wanted if key in tensors and wanted[key].shape != tensors[key].shape]
    if not (missing or unexpected or others):
        return
    found = [listed("missing", missing), listed("unexpected", unexpected)]
    found.append(listed("of another shape", [f"{key} {(*tensors[key].shape,)} for {(*wanted[key].shape,)}" for key in others]))
    prefix = next((w for w in WRAPPERS if unexpected and all(key.startswith(w) for key in tensors)), None)
    if prefix:
        cause = f"the weights are of a wrapper, all their names begin with {prefix!r}; save the module inside"
    elif missing or unexpected:
        cause = "its depth, blocks, attention, classes or condition differ"
    else:
        cause = "its width, channels, dimension or number of classes differ"
    raise ValueError(f"{what} do not fit: {'; '.join(filter(None, found))}. Likely cause: {cause}")


def listed(what: str, names: list[str]) -> str:
    """Some names for a message: how many, and the first of them."""
    if not names:
        return ""
    return f"{len(names)} {what}: {', '.join(names[:LISTED])}{', ...' if len(names) > LISTED else ''}"


def _public(module: ModuleType) -> dict[str, Any]:
    return {name: getattr(module, name) for name in module.__all__}


def _no_network(denoiser: Denoiser) -> str:
    kind = type(denoiser).__name__
    inner = next((name for name, module in denoiser.named_modules() if type(module) is NetworkDenoiser), None)
    if inner is None:
        return f"a {kind} has no network to save; its expression or its data are what builds it again"
    return f"a {kind} wraps another denoiser, which is what can be saved: denoiser.{inner}; save that, and wrap it again after loading"
