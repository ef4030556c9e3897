"""Edge attribution: what every attention head does by way of the queries, keys and values of later ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from taskheads.attention.arranging import PARTS
from taskheads.attention.changing import Found, site_of
from taskheads.attention.direct import DirectLogits
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import Measure
from taskheads.attention.which import AttentionHead
from taskheads.backbone.changes import Changes, MapChange
from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.reads import Pooling, pool
from taskheads.edits.edited import frozen
from taskheads.edits.maps import weight_of
from taskheads.errors import BackboneError

# Tokens whose contributions [heads, tokens, D] are held at once.
_AT_ONCE = 128
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Edges:
    """Scores of edges between attention heads, from (layer, head) to (part, layer, head); the mean over rows.

    values: [layers, heads, 3, layers, heads], the parts being query, key and value; 0 where no edge leads.
    Under grouped queries the receiving heads of keys and values are numbered as those are.
    """

    values: torch.Tensor

    def top(self, count: int) -> list[tuple[AttentionHead, str, AttentionHead, float]]:
        """The edges of the largest absolute score: sender, part, receiver, score."""
        order = self.values.abs().flatten().argsort(descending=True, stable=True)[:count]
        found = []
        for place in order.tolist():
            at = [int(each) for each in torch.unravel_index(torch.tensor(place), self.values.shape)]
            value = float(self.values.flatten()[place])
            found.append((AttentionHead(*at[:2]), str(PARTS[at[2]]), AttentionHead(*at[3:]), value))
        return found


class EdgeAttribution:
    """Edge attribution patching between attention heads (Syed et al. 2023, arXiv:2310.10348): the change of a
    measure, to first order, if what one head adds to the residual stream were another for one input of a
    later head alone. One pass forward and one back, whatever the number of edges: the stream is not split.

    Raises BackboneError for a backbone whose residual stream is no plain sum, or in which queries,
    keys and values are not made of the output of the layer's first norm.
    """

    def __init__(self, heads: AttentionHeads) -> None:
        DirectLogits(heads)  # refuses a stream that is no plain sum
        self.heads, self.backbone = heads, heads.backbone
        maps = self.backbone.layout.maps
        self.places = [{part: heads.place(layer, part) for part in PARTS} for layer in range(len(maps))]
        if not all(each.norms for each in maps):
            raise BackboneError(f"{self.backbone.name!r} has a layer without a norm")
        self.norms: list[nn.Module] = [self.backbone.model.get_submodule(each.norms[0]) for each in maps]

    def __call__(
        self, batch: RaggedBatch, measure: Measure, *, by: Found | None = None, pooling: Pooling = "last"
    ) -> Edges:
        """by: what the heads' outputs would be, by site, as `taskheads.attention.scanning.effects` takes it;
        nothing by default."""
        heads, layers = self.heads, range(self.heads.n_layers)
        streams, z, inputs, gradients = self._passes(batch, measure, pooling)
        for layer in layers:
            made = self.norms[layer](streams[layer])
            name = self.places[layer]["query"][0]
            if not (made - inputs[name]).abs().max() <= _TOLERANCE * made.abs().max():
                raise BackboneError(f"layer {layer} of {self.backbone.name!r} does not read its first norm")
        most = heads.shape[1]
        values = streams[0].new_zeros(heads.n_layers, most, len(PARTS), heads.n_layers, most)
        with torch.no_grad():
            for tokens in torch.arange(len(batch.ids), device=streams[0].device).split(_AT_ONCE):
                steps = [
                    z[n][tokens] * -1 if by is None else _at(by[site_of(n)], tokens) - z[n][tokens]
                    for n in layers
                ]
                sent = [
                    heads.contributions(n, step).transpose(0, 1).flatten(1) for n, step in enumerate(steps)
                ]
                for layer in layers[1:]:
                    below = torch.cat(sent[:layer])
                    received = self._received(layer, streams[layer][tokens], gradients, tokens)
                    for part, each in enumerate(received):
                        scores = (below @ each.flatten(1).T).split([len(some) for some in sent[:layer]])
                        for sender, own in enumerate(scores):
                            values[sender, : own.shape[0], part, layer, : own.shape[1]] += own
        return Edges(values / len(batch))

    def _received(
        self, layer: int, stream: torch.Tensor, gradients: dict[str, torch.Tensor], tokens: torch.Tensor
    ) -> list[torch.Tensor]:
        """Gradients [heads, n, D] by the stream that enters the layer, through one part of one head alone."""
        found = []
        for part in PARTS:
            name, at = self.places[layer][part]
            weight = weight_of(self.backbone, name)[at]
            normed = torch.einsum("nhw,hwd->hnd", gradients[name][tokens][:, at], weight)
            with torch.enable_grad():
                copies = stream.expand_as(normed).detach().requires_grad_()
                (towards,) = torch.autograd.grad(self.norms[layer](copies), copies, normed)
            found.append(towards)
        return found

    def _passes(
        self, batch: RaggedBatch, measure: Measure, pooling: Pooling
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """The stream that enters each layer, the heads' outputs, and by name the inputs of the maps, and the
        gradients by their outputs."""
        probes: dict[str, torch.Tensor] = {}
        inputs: dict[str, torch.Tensor] = {}

        def probed(name: str) -> MapChange:
            def change(given: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
                inputs[name] = given.detach()
                probes[name] = torch.zeros_like(made, requires_grad=True)
                return made + probes[name]

            return change

        names = list(dict.fromkeys(name for each in self.places for name, _ in each.values()))
        layers = range(self.heads.n_layers)
        entering = ["embeddings", *(f"layers.{n}.output" for n in layers[:-1])]
        sites = [site_of(n) for n in layers]
        with frozen(self.backbone), torch.enable_grad():
            changes = Changes(maps={name: probed(name) for name in names})
            found = self.backbone.run(batch, [*entering, *sites, "output"], changes)
            total = measure(pool(found["output"], batch, pooling)).sum()
            made = torch.autograd.grad(total, [probes[name] for name in names], allow_unused=True)
        gradients = {
            n: torch.zeros_like(probes[n]) if g is None else g for n, g in zip(names, made, strict=True)
        }
        return (
            [found[site].detach() for site in entering],
            [found[site].detach() for site in sites],
            inputs,
            gradients,
        )


def _at(other: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return other if other.dim() == 2 else other[tokens]
