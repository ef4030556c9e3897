"""Pfeiffer adapters where AdapterHub places them: around the layer's last norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from transformers.activations import ACT2FN

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Changes, MapChange
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.backbone.running import Batch
from taskheads.edits.adapters.bottleneck import Bottleneck
from taskheads.edits.edit import Edit, Own
from taskheads.edits.layers import chosen_layers
from taskheads.edits.maps import by_name, key
from taskheads.errors import ConfigError
from taskheads.methods import method


@method("seq_bn", family="edits", paper="arXiv:2005.00247")
class SeqBn(Edit):
    """AdapterHub's Pfeiffer adapters ("seq_bn"): a bottleneck a layer, which sees the layer's output and is
    added below its last norm.

    Where a norm closes the layer (BERT, RoBERTa, DistilBERT), for its input r the layer gives
    norm(r + f(norm(r) D + b) U + c); where the layer ends in a sum h (GPT-2, Llama, ViT), it gives
    h + f(h D + b) U + c. Pfeiffer et al. 2021 found this the best of the places they tried; `pfeiffer` is
    the simpler one, which sees what the feed-forward block gives. Read from files by
    `taskheads.edits.adapterhub.read_adapterhub`.

    Parameters
    ----------
    inner: width of the bottleneck. activation: its nonlinearity, a name of transformers'.
    layers: of these alone; all by default.
    """

    lr = 1e-3

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        inner: int = 32,
        activation: str = "relu",
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tasks)
        if activation not in ACT2FN:
            raise ConfigError(f"seq_bn: there is no activation {activation!r}")
        places = ends_of_layers(backbone)
        self.adapters = nn.ModuleDict()
        # The backbone's own norms, which run again on a changed input; no part of the edit.
        self._norms: dict[str, nn.Module] = {}
        for layer in chosen_layers(backbone, layers):
            place = places[layer]
            self.adapters[key(place)] = Bottleneck(backbone.width, inner, activation)
            if place in backbone.layout.modules:
                self._norms[place] = backbone.model.get_submodule(place)

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        adapters = by_name(self.adapters)
        return Own(
            sites={place: _at_sum(each) for place, each in adapters.items() if place not in self._norms},
            maps={place: _around(norm, adapters[place]) for place, norm in self._norms.items()},
        )


def ends_of_layers(backbone: Backbone) -> list[str]:
    """For each layer, the name of the norm whose output is the layer's; its site where that is a sum."""
    given: dict[str, list[torch.Tensor]] = {}

    def watch(name: str) -> MapChange:
        def change(_x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            given.setdefault(name, []).append(y)
            return y

        return change

    last = [maps.norms[-1] if maps.norms else "" for maps in backbone.layout.maps]
    sites = [f"layers.{layer}.output" for layer in range(backbone.n_layers)]
    watched = Changes(maps={name: watch(name) for name in last if name})
    with torch.inference_mode():
        found = backbone.run(_a_row(backbone), sites, watched)
    return [
        name if any(torch.equal(found[site], each) for each in given.get(name, ())) else site
        for name, site in zip(last, sites, strict=True)
    ]


def _a_row(backbone: Backbone) -> Batch:
    if not backbone.vision:
        return RaggedBatch([Encoded(np.arange(3, 6))]).to(backbone.device)
    config = backbone.model.config
    return backbone.images(torch.zeros(1, config.num_channels, config.image_size, config.image_size))


def _at_sum(adapter: Bottleneck) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda h: adapter(h, h)


def _around(norm: nn.Module, adapter: Bottleneck) -> MapChange:
    def change(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        changed = x + adapter.added(y)
        # The norm has the backbone's precision, which may be half of the edit's. It is run and not called:
        # what hooks on it do is being done.
        return norm.forward(changed.to(next(norm.parameters()).dtype))

    return change
