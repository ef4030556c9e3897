"""From a module's input and output gradient to its parameters' gradients, task by task."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import layer_norm
from transformers.pytorch_utils import Conv1D

from taskheads.backbone.linear_maps import Linear, TransposedLinear
from taskheads.sharing.kept import ParameterGradients
from taskheads.sharing.slices import Slices

Kept = Mapping[torch.Tensor, ParameterGradients]
Recorder = Callable[[nn.Module, torch.Tensor, torch.Tensor, Slices, Kept], None]


def recorder_for(module: nn.Module) -> Recorder | None:
    """What works out the gradients of this module's own parameters; None where that is not known."""
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq):
        return None
    return _RECORDERS.get(type(module)) or (_scale if _only_scales(module) else None)


def _linear(module: nn.Module, x: torch.Tensor, g: torch.Tensor, slices: Slices, kept: Kept) -> None:
    x, g = x.to(g.dtype).flatten(0, -2), g.flatten(0, -2)
    if module.weight in kept:
        kept[module.weight].add_products(g, x, slices.scaled(len(g)))  # type: ignore[index]
    _bias(module, g, slices, kept)


def _conv1d(module: nn.Module, x: torch.Tensor, g: torch.Tensor, slices: Slices, kept: Kept) -> None:
    x, g = x.to(g.dtype).flatten(0, -2), g.flatten(0, -2)
    if module.weight in kept:
        kept[module.weight].add_products(x, g, slices.scaled(len(g)))  # type: ignore[index]
    _bias(module, g, slices, kept)


def _layer_norm(module: nn.Module, x: torch.Tensor, g: torch.Tensor, slices: Slices, kept: Kept) -> None:
    shape: tuple[int, ...] = module.normalized_shape  # type: ignore[assignment]
    last = -len(shape) - 1
    if module.weight in kept:
        normed = layer_norm(x, shape, eps=module.eps).to(g.dtype)  # type: ignore[arg-type]
        kept[module.weight].add_stack(slices.sums((normed * g).flatten(0, last)))  # type: ignore[index]
    _bias(module, g.flatten(0, last), slices, kept)


def _scale(module: nn.Module, x: torch.Tensor, g: torch.Tensor, slices: Slices, kept: Kept) -> None:
    unscaled = _with_weight(module, x, 1.0) - _with_weight(module, x, 0.0)
    kept[module.weight].add_stack(slices.sums((unscaled.to(g.dtype) * g).flatten(0, -2)))  # type: ignore[index]


def _embedding(module: nn.Module, x: torch.Tensor, g: torch.Tensor, slices: Slices, kept: Kept) -> None:
    ids, g = x.flatten(), g.flatten(0, -2)
    sizes = torch.tensor(slices.scaled(len(ids)), device=ids.device)
    tasks = torch.arange(len(sizes), device=ids.device).repeat_interleave(sizes)
    if module.padding_idx is not None:  # that row is never trained
        trained = ids != module.padding_idx
        ids, tasks, g = ids[trained], tasks[trained], g[trained]
    kept[module.weight].add_rows(ids, tasks, g)  # type: ignore[index]


def _bias(module: nn.Module, g: torch.Tensor, slices: Slices, kept: Kept) -> None:
    if module.bias in kept:
        kept[module.bias].add_stack(slices.sums(g))  # type: ignore[index]


def _only_scales(module: nn.Module) -> bool:
    """Whether a norm of some make (RMSNorm, T5LayerNorm, ...) is f(x) · weight + h(x), element by element.

    Tried rather than known: every model family brings its own class.
    """
    named = dict(module.named_parameters())
    if not type(module).__name__.endswith("Norm") or list(named) != ["weight"] or named["weight"].ndim != 1:
        return False
    width = named["weight"].numel()
    x = torch.linspace(-1.0, 2.0, 3 * width).view(3, width).to(named["weight"])
    zero, one, three = (_with_weight(module, x, value) for value in (0.0, 1.0, 3.0))
    return zero.shape == x.shape and torch.allclose(three, zero + 3 * (one - zero), rtol=1e-2, atol=1e-2)


@torch.no_grad()
def _with_weight(module: nn.Module, x: torch.Tensor, value: float) -> torch.Tensor:
    return functional_call(module, {"weight": torch.full_like(module.weight, value)}, (x,))  # type: ignore[arg-type]


_RECORDERS: dict[type[nn.Module], Recorder] = {
    nn.Linear: _linear,
    Linear: _linear,
    Conv1D: _conv1d,
    TransposedLinear: _conv1d,
    nn.LayerNorm: _layer_norm,
    nn.Embedding: _embedding,
}
