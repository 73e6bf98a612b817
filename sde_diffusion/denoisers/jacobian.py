"""Products of vectors with the Jacobian of a network, and its trace."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

PRODUCTS = 2048  # vector-Jacobian products at once, samples times coordinates: what bounds the memory of an exact trace


def jacobian_trace(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """y = function(x), of the shape of x, (b, *d), and tr dy/dx, (b,) float64, by d products; differentiable if gradients are recorded."""
    record = torch.is_grad_enabled()
    with recorded(record):
        z = x if record and x.requires_grad else x.detach().requires_grad_()
        y = function(z)
    d = x[0].numel()
    trace = x.new_zeros(len(x), dtype=torch.float64)
    for part in torch.arange(d, device=x.device).split(max(1, PRODUCTS // len(x))):
        basis = torch.nn.functional.one_hot(part, d).to(x)[:, None].expand(-1, len(x), -1).reshape(-1, *x.shape)
        pulled = vector_jacobian(y, z, basis, keep=record or int(part[-1]) + 1 < d, record=record)
        trace = trace + pulled.flatten(2)[torch.arange(len(part), device=x.device), :, part].double().sum(0)
    return (y, trace) if record else (y.detach(), trace)


@contextlib.contextmanager
def recorded(twice: bool) -> Iterator[None]:
    """Records gradients; `twice`, so that these can be differentiated too, which torch's fused attention cannot be."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH) if twice else contextlib.nullcontext():
        yield


def vector_jacobian(y: Tensor, x: Tensor, vectors: Tensor, *, keep: bool = False, record: bool = False) -> Tensor:
    """Each of the vectors (k, *y) times dy/dx, (k, *x), in one call unless gradients are recorded or there are many.

    Args:
        y: a function of x of any shape.
        x: what it is a function of.
        vectors: (k, *y).
        keep: whether there will be more products of the same y.
        record: whether the products can be differentiated.
    """
    if not y.requires_grad:
        return vectors.new_zeros(len(vectors), *x.shape)
    options: dict[str, Any] = {"create_graph": record, "materialize_grads": True}
    if len(vectors) > 1 and not record and len(vectors) * len(x) <= PRODUCTS:
        (pulled,) = torch.autograd.grad(y, x, vectors, retain_graph=keep, is_grads_batched=True, **options)
        return pulled
    last = len(vectors) - 1
    products = (torch.autograd.grad(y, x, v, retain_graph=keep or record or i < last, **options)[0] for i, v in enumerate(vectors))
    return torch.stack(list(products))
