"""Training of some attention heads alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from taskheads.attention.arranging import PARTS
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.which import Which


@contextmanager
def training_only(heads: AttentionHeads, which: Which) -> Iterator[list[nn.Parameter]]:
    """Meanwhile of the backbone's weights nothing has a gradient but what belongs to these attention heads:
    their queries, keys, values (with their biases) and their columns of the output projection. Gives the
    parameters for an optimiser; it must not decay weights, which moves those without a gradient, too.

    Under grouped queries the keys and values are those of the head's group.
    """
    backbone = heads.backbone
    masks: dict[str, torch.Tensor] = {}
    for layer, head in heads.which(which):
        for part in PARTS:
            name, at = heads.place(layer, part)
            mine = at[head if part == "query" else heads.key_head(layer, head)]
            _mask(masks, backbone.model, f"{name}.weight")[mine] = True
            if getattr(backbone.model.get_submodule(name), "bias", None) is not None:
                _mask(masks, backbone.model, f"{name}.bias")[mine] = True
        name = backbone.layout.maps[layer].attention_output
        columns = slice(head * heads.width, (head + 1) * heads.width)
        _mask(masks, backbone.model, f"{name}.weight")[:, columns] = True
    asked = {name: each.requires_grad for name, each in backbone.model.named_parameters()}
    hooks = []
    try:
        for name, parameter in backbone.model.named_parameters():
            parameter.requires_grad_(name in masks)
            if name in masks:
                hooks.append(parameter.register_hook(_masked(masks[name])))
        yield [backbone.model.get_parameter(name) for name in masks]
    finally:
        for hook in hooks:
            hook.remove()
        for name, parameter in backbone.model.named_parameters():
            parameter.requires_grad_(asked[name])


def _mask(masks: dict[str, torch.Tensor], model: nn.Module, name: str) -> torch.Tensor:
    """Which elements of a parameter learn, bool, as [out, in] (or [out]): a view that is written to."""
    parameter = model.get_parameter(name)
    mask = masks.setdefault(name, torch.zeros_like(parameter, dtype=torch.bool))
    transposed = isinstance(model.get_submodule(name.rpartition(".")[0]), Conv1D) and mask.dim() == 2
    return mask.T if transposed else mask


def _masked(mask: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda gradient: gradient * mask
