"""A batch that goes through the lower layers once, and through the upper ones in several copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from taskheads.backbone.attention import Attention
from taskheads.backbone.changes import Fork
from taskheads.backbone.sites import Layout, layer_of


def forking(
    layout: Layout, fork: Fork, attention: Attention, mine: Callable[[Callable], Callable]
) -> Iterator[Any]:
    """Hooks by which every layer from the fork on is given all copies of the batch, and attends within them.

    They must stand before all others at these layers. `mine` makes a hook blind to other threads.
    """
    batch = attention.batch
    assert batch is not None
    size, forked = len(batch.ids), batch.repeated(fork.copies)
    calls = iter(range(len(layout.layers)))

    def hook(_module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if next(calls) < fork.layer:
            return None
        attention.batch = forked
        return _repeated(args, size, fork.copies), _repeated(kwargs, size, fork.copies)

    for layer in dict.fromkeys(layout.layers):
        yield layer.register_forward_pre_hook(mine(hook), with_kwargs=True)


def all_copies(site: str, tensor: torch.Tensor, fork: Fork) -> torch.Tensor:
    """What was read at a site, for every copy of the batch: of what lies below the fork there was one."""
    above = layer_of(site) >= fork.layer or (site == "embeddings" and fork.layer == 0)
    return tensor if above else tensor.repeat(fork.copies, *[1] * (tensor.ndim - 1))


def _repeated(value: Any, size: int, copies: int) -> Any:
    """Tensors with `size` tokens, wherever they stand in what a layer is given, so many times end to end."""
    if isinstance(value, torch.Tensor):
        if value.ndim > 1 and value.shape[1] == size:
            return value.repeat(1, copies, *[1] * (value.ndim - 2))
        return value.repeat(copies) if value.ndim == 1 and len(value) == size else value
    if isinstance(value, tuple | list):
        return type(value)(_repeated(each, size, copies) for each in value)
    if isinstance(value, dict):
        return {key: _repeated(each, size, copies) for key, each in value.items()}
    return value
