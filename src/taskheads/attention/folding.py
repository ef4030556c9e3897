"""Changes of attention heads' outputs that are linear, as weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.which import by_layer
from taskheads.edits.maps import as_stored
from taskheads.errors import ConfigError


def folded(
    heads: AttentionHeads, by: Mapping[tuple[int, int], torch.Tensor | float]
) -> dict[str, torch.Tensor]:
    """The weights of the backbone, by name, with which an output z of a head does what z M does without.

    by: for each head its M, [width, width] or a number. Only the weights that differ are there. Raises
    ConfigError where layers share their weights.
    """
    names = [maps.attention_output for maps in heads.backbone.layout.maps]
    found = {}
    for layer, some in by_layer(by).items():
        name = names[layer]
        if names.count(name) > 1:
            raise ConfigError(f"layers of {heads.backbone.name!r} share {name}: no head of one can be folded")
        weight = heads.output_weight(layer).detach().clone()
        for head in some:
            factor = by[layer, head]
            mine = weight[head]
            weight[head] = factor.to(mine) @ mine if isinstance(factor, torch.Tensor) else factor * mine
        found[f"{name}.weight"] = as_stored(heads.backbone, name, weight.flatten(0, 1).T)
    return found
