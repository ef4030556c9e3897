"""Tokens on both sides of attention heads: what a head makes of one token, said in tokens, from its weights.

Nothing attends here. A token's stream is that of a row of it alone; a head reads that through the norm of its
layer, and what it writes is read off through the norm at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from taskheads.attention.arranging import probe_of
from taskheads.attention.changing import scaled
from taskheads.attention.direct import final_norm, through_norm
from taskheads.attention.factored import Factored
from taskheads.attention.heads import AttentionHeads
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.hearing import Heard
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.errors import BackboneError

_TOLERANCE = 1e-4
# Of float32, with room: relative to the size of what is multiplied.
_ROUNDING = 1e-6


def embedding_of(backbone: Backbone) -> torch.Tensor:
    """The table of token embeddings [tokens, D]. Raises BackboneError where there is none of that width."""
    words = backbone.layout.words
    weight = None if words is None else words.weight
    if not isinstance(weight, torch.Tensor) or weight.shape[1] != backbone.width:
        raise BackboneError(f"{backbone.name!r} has no token embeddings as wide as its residual stream")
    return weight.detach()


@torch.no_grad()
def lone(heads: AttentionHeads, tokens: Sequence[int]) -> torch.Tensor:
    """The residual stream of each token, in a row of its own, after the feed-forward block of layer 0 and
    with no attention head heard [tokens, D]: "effective embeddings", which the heads above are made for."""
    batch = RaggedBatch([Encoded(np.array([token])) for token in tokens]).to(heads.backbone.device)
    site = "layers.0.output"
    return heads.backbone.run(batch, [site], scaled(heads.which("0.*"), 0))[site]


@torch.no_grad()
def reading_norm(heads: AttentionHeads, layer: int) -> nn.Module:
    """The norm between the residual stream and what the attention of a layer reads; `nn.Identity` where
    norms come after the sums (BERT). Raises BackboneError for anything else in between."""
    backbone = heads.backbone
    maps = backbone.layout.maps[layer]
    before = f"layers.{layer - 1}.output" if layer else "embeddings"
    heard = Heard([maps.attention[0]])
    found = backbone.run(probe_of(backbone), [before, f"layers.{layer}.output"], heard.changes)
    stream, given = found[before], heard.inputs[maps.attention[0]][-1]
    for norm in (nn.Identity(), *map(backbone.model.get_submodule, maps.norms)):
        if (norm(stream) - given).abs().max() <= _TOLERANCE * given.abs().max():
            return norm
    raise BackboneError(f"what layer {layer} of {backbone.name!r} does before it attends is no norm")


@torch.no_grad()
def unembedding(heads: AttentionHeads, language_head: nn.Module) -> torch.Tensor:
    """The language head as it reads the residual stream [tokens, D]: its weight with the gain (and the
    centring) of the final norm in it, for a stream of size 1."""
    backbone = heads.backbone
    last = f"layers.{heads.n_layers - 1}.output"
    found = backbone.run(probe_of(backbone), [last, "output"])
    norm = final_norm(backbone, found[last], found["output"])
    weight = language_head.weight
    assert isinstance(weight, torch.Tensor)
    return before_norm(norm, weight).detach()


def before_norm(norm: nn.Module, directions: torch.Tensor) -> torch.Tensor:
    """Directions [k, D] of what a norm gives as directions of what it is given, for a stream of mean 0 and
    size 1: with the norm's gain (and its centring) in them."""
    # Alternating signs: of mean 0 (to 1/D) and size 1, whichever norm it is.
    sign = 1 - 2 * (torch.arange(directions.shape[1], device=directions.device) % 2).to(directions.dtype)
    return through_norm(norm, sign[None], directions[None])[0][0]


@torch.no_grad()
def token_map(heads: AttentionHeads, layer: int, streams: torch.Tensor, unembedded: torch.Tensor) -> Factored:
    """For every head of a layer, what it adds to the logits of tokens when it looks at a stream, its value's
    bias left out: [heads, n, tokens], through the head's width.

    streams: [n, D], such as `lone` gives; unembedded: [tokens, D], such as `unembedding` gives.
    """
    given, values = reading_norm(heads, layer)(streams), heads.value(layer)[0]
    read = _product(given, values)[[heads.key_head(layer, head) for head in range(heads.counts[layer])]]
    return Factored(read, _product(heads.output_weight(layer), unembedded.T))


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left @ right, in which what is 0 but for rounding is 0: a head that says nothing prefers no token."""
    made = left @ right
    least = _ROUNDING * left.norm(dim=-1, keepdim=True) * right.norm(dim=-2, keepdim=True)
    return made * (made.abs() > least)


def ahead(mapped: Factored, targets: torch.Tensor) -> torch.Tensor:
    """For every head and each of n rows of `token_map`, how many tokens come before the row's target, one of
    them [n], or level with it [heads, n]. Level is what rounding does not tell apart: of a head that says
    nothing all tokens are ahead of any."""
    found = []
    for left, right in zip(mapped.left, mapped.right, strict=True):
        rows = left @ right
        rounding = _ROUNDING * left.norm(dim=1, keepdim=True) * right.norm()
        own = rows.gather(1, targets[:, None].to(rows.device))
        found.append((rows >= own - rounding).sum(1) - 1)
    return torch.stack(found)
