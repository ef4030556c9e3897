"""A backbone that shares most of its weights with another one."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone


@dataclass(frozen=True)
class Branch:
    """A backbone that grew from another one: `trunk` is the name of the branch it shares weights with, or ""
    for the backbone that all have in common."""

    backbone: Backbone
    trunk: str = ""


def branched(trunk: Backbone, own: Mapping[str, torch.Tensor]) -> Backbone:
    """A backbone with weights of its own where `own` names them, and the very same tensors everywhere else.

    `own` is {name of a parameter of `trunk.model`: value}; values are copied. Raises AttributeError for an
    unknown name.
    """
    copied = sharing(trunk.model, own)
    with torch.no_grad():
        for name, value in own.items():
            copied.get_parameter(name).copy_(value)
    tokenizer = None if trunk.tokens is None else trunk.tokens.tokenizer
    return Backbone(copied, tokenizer, name=trunk.name, limit=trunk.limit, precision=trunk.precision)


def sharing(model: nn.Module, own: Iterable[str] = ()) -> nn.Module:
    """A copy of a module whose parameters and buffers are the very same tensors, but for those named."""
    mine = {id(model.get_parameter(name)) for name in own}
    # What deepcopy finds in its memo it takes for copied already.
    shared = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(each): each for each in shared if id(each) not in mine})


def own_tensors(backbone: Backbone, trunk: Backbone) -> dict[str, torch.Tensor]:
    """The weights of a branch that are not its trunk's, by name."""
    theirs = {id(parameter) for parameter in trunk.model.parameters()}
    return {
        name: parameter.detach()
        for name, parameter in backbone.model.named_parameters()
        if id(parameter) not in theirs
    }
