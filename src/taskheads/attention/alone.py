"""Every attention head changed alone, in whatever way: a pass for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from taskheads.attention.asked import last_vectors
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import Measure
from taskheads.attention.which import AttentionHead, Which, by_layer
from taskheads.backbone.changes import Changes, Lower
from taskheads.backbone.ragged import RaggedBatch


@torch.inference_mode()
def alone(
    heads: AttentionHeads,
    batch: RaggedBatch,
    measure: Measure,
    change: Callable[[AttentionHead], Changes],
    which: Which = "all",
) -> torch.Tensor:
    """How much the measure of each row changes when `change` is made of one head [rows, layers, heads]; NaN
    for heads that were not asked for. Where rows are read: at their last token.

    For zeros, means and patches `taskheads.attention.scanning.effects` says the same in far fewer passes.
    Here the layers below a head run once for all heads of its layer, where the change leaves them alone.
    """
    backbone = heads.backbone
    plain = measure(last_vectors(backbone, batch))
    found = plain.new_full((len(batch), *heads.shape), torch.nan)
    for layer, some in by_layer(heads.which(which)).items():
        below = Lower(layer)
        for head in some:
            changes = change(AttentionHead(layer, head))
            if 0 < layer <= changes.lowest(backbone.layout):
                changes = replace(changes, lower=below)
            found[:, layer, head] = measure(last_vectors(backbone, batch, changes)) - plain
    return found
