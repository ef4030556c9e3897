"""Which linear maps of a backbone an edit stands on, and their weights and widths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from taskheads.backbone.backbone import Backbone
from taskheads.edits.layers import chosen_layers
from taskheads.errors import ConfigError

Targets = str | Sequence[str]


def targeted(backbone: Backbone, targets: Targets, layers: Sequence[int] | None = None) -> list[str]:
    """The names of linear maps, from bottom to top.

    Parameters
    ----------
    targets: "attention" (what makes queries, keys and values), "output" (attention's output projection),
        "mlp", "all"; or ends of names as PEFT takes them (["query", "value"]).
    layers: of these layers alone; all by default.

    Raises ConfigError where nothing is called so, naming what there is.
    """
    found: dict[str, None] = {}
    for layer in chosen_layers(backbone, layers):
        maps = backbone.layout.maps[layer]
        groups = {
            "attention": maps.attention,
            "output": (maps.attention_output,) if maps.attention_output else (),
            "mlp": maps.mlp,
            "all": maps.linear,
        }
        ends = [targets] if isinstance(targets, str) else list(targets)
        for end in ends:
            names = groups.get(end) or [n for n in maps.linear if n == end or n.endswith(f".{end}")]
            found.update(dict.fromkeys(names))
    if not found:
        there = sorted({name.rpartition(".")[2] for maps in backbone.layout.maps for name in maps.linear})
        raise ConfigError(f"the backbone has no linear map {targets!r}: it has {', '.join(there)}")
    return list(found)


def widths(backbone: Backbone, name: str) -> tuple[int, int]:
    """Inputs and outputs of a linear map."""
    module = backbone.model.get_submodule(name)
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return module.in_features, module.out_features


def weight_of(backbone: Backbone, name: str) -> torch.Tensor:
    """The weight of a linear map as [out, in]."""
    module = backbone.model.get_submodule(name)
    return module.weight.T if isinstance(module, Conv1D) else module.weight


def bias_name(backbone: Backbone, name: str) -> str:
    """The name of a map's bias. Raises ConfigError where it has none."""
    if getattr(backbone.model.get_submodule(name), "bias", None) is None:
        raise ConfigError(f"{name} has no bias, so that an offset cannot be folded into it")
    return f"{name}.bias"


def as_stored(backbone: Backbone, name: str, weight: torch.Tensor) -> torch.Tensor:
    """A weight [out, in] as the module keeps it."""
    transposed = isinstance(backbone.model.get_submodule(name), Conv1D)
    return weight.T.contiguous() if transposed else weight


def key(name: str) -> str:
    """A name that a parameter may have: without dots."""
    return name.replace(".", "/")


def task_key(task: str) -> str:
    """The name under which a ModuleDict or a ParameterDict may keep what is a task's: those take no name that
    their own methods have, such as "type"."""
    return key(f"task.{task}")


def by_name(kept: Any) -> dict[str, Any]:
    """What is kept under `key` in a ModuleDict or a ParameterDict, by the names of the maps."""
    return {name.replace("/", "."): each for name, each in kept.items()}
