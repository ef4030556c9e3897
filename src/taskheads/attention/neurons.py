"""Feed-forward neurons taken out for good: what stands at `layers.N.mlp.hidden`, cut from the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Change, Changes
from taskheads.backbone.cutting import KEY, Cut, Cuts
from taskheads.edits.maps import widths
from taskheads.errors import BackboneError

# By layer, the numbers of neurons.
Neurons = Mapping[int, Sequence[int]]


def silent(neurons: Neurons) -> Changes:
    """The changes of a pass in which these neurons are 0."""

    def quiet(some: Sequence[int]) -> Change:
        index = torch.tensor(list(some), dtype=torch.long)
        return lambda hidden: hidden.index_fill(1, index.to(hidden.device), 0)

    return Changes(sites={f"layers.{layer}.mlp.hidden": quiet(some) for layer, some in neurons.items()})


def without_neurons(backbone: Backbone, neurons: Neurons) -> Backbone:
    """A backbone of its own without these neurons, of which the output is that with them `silent`. It is
    saved as `taskheads.backbone.cutting` says, beside what was cut before.

    Raises BackboneError for a layer whose feed-forward block is not two linear maps, or three with a gate.
    """
    maps: dict[str, Cut] = {}
    for layer, gone in neurons.items():
        *first, last = backbone.layout.maps[layer].mlp or [""]
        hidden = widths(backbone, last)[0] if first else 0
        if not first or any(widths(backbone, name)[1] != hidden for name in first):
            raise BackboneError(f"the neurons of layer {layer} of {backbone.name!r} cannot be told apart")
        left = sorted(set(range(hidden)) - set(gone))
        maps |= {name: Cut(outputs=left) for name in first} | {last: Cut(inputs=left)}
    model = copy.deepcopy(backbone.model)
    before = Cuts.of(model.config) or Cuts()
    Cuts(maps).apply(model)
    setattr(model.config, KEY, asdict(Cuts({**before.maps, **maps}, before.numbers)))
    tokenizer = None if backbone.tokens is None else backbone.tokens.tokenizer
    return Backbone(model, tokenizer, name=backbone.name, limit=backbone.limit)
