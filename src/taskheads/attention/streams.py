"""The residual stream of a pass as the sum that it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from taskheads.attention.changing import site_of
from taskheads.attention.direct import DirectLogits
from taskheads.attention.heads import AttentionHeads
from taskheads.backbone.hearing import Heard
from taskheads.backbone.ragged import RaggedBatch


@dataclass(frozen=True)
class Streams:
    """What one pass over a batch of N tokens had at every depth.

    Attributes
    ----------
    before: the stream that enters each layer, and last what leaves the last one [N, D].
    attention: what each layer's attention adds, its bias included [N, D].
    z: each layer's heads' outputs [N, heads, width].
    found: whatever else was read.
    """

    heads: AttentionHeads
    before: Sequence[torch.Tensor]
    attention: Sequence[torch.Tensor]
    z: Sequence[torch.Tensor]
    found: Mapping[str, torch.Tensor]

    def between(self, layer: int) -> torch.Tensor:
        """The stream between a layer's two blocks [N, D]."""
        return self.before[layer] + self.attention[layer]

    def mlp(self, layer: int) -> torch.Tensor:
        """What a layer's feed-forward block adds [N, D]."""
        return self.before[layer + 1] - self.between(layer)

    def written(self, below: int, token: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The stream that enters layer `below` at one token as what each attention head wrote there
        [below, heads, D] and all the rest [D]: embeddings, feed-forward blocks and biases."""
        most = max(self.heads.counts)
        mine = self.before[0].new_zeros(below, most, self.before[0].shape[1])
        for layer in range(below):
            part = self.heads.contributions(layer, self.z[layer][[token]])[0]
            mine[layer, : len(part)] = part
        return mine, self.before[below][token] - mine.sum((0, 1))


@torch.no_grad()
def streams(heads: AttentionHeads, batch: RaggedBatch, read: Sequence[str] = ()) -> Streams:
    """Of one pass, with further sites read. Raises BackboneError where the stream is no plain sum (BERT)."""
    DirectLogits(heads)  # which checks that it is
    layers = range(heads.n_layers)
    projections = [maps.attention_output for maps in heads.backbone.layout.maps]
    outputs = ["embeddings", *(f"layers.{layer}.output" for layer in layers)]
    outcome = [site_of(layer) for layer in layers]
    heard = Heard(projections)
    found = heads.backbone.run(batch, [*outputs, *outcome, *read], heard.changes)
    return Streams(
        heads,
        [found[site] for site in outputs],
        [heard.outputs[name][0] for name in projections],
        [found[site] for site in outcome],
        found,
    )
