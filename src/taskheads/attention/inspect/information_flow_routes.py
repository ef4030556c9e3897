"""Information flow routes: the edges between token representations that a prediction is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from taskheads.attention.changing import site_of
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.streams import Streams, streams
from taskheads.attention.where import At
from taskheads.backbone.ragged import RaggedBatch
from taskheads.methods import method

# What an edge is: an attention head or a feed-forward block, or the way around one of the two blocks.
Kind = Literal["attention", "around attention", "mlp", "around mlp"]


class Edge(NamedTuple):
    """From one position of a row to another, in a layer; `head` is -1 for what is no attention head."""

    row: int
    layer: int
    kind: Kind
    head: int
    source: int
    target: int
    importance: float


@dataclass(frozen=True)
class Routes:
    """The edges that were kept, from the predictions downwards; `shape` is that of a table of all heads."""

    edges: list[Edge]
    rows: int
    shape: tuple[int, int]

    def of_heads(self) -> torch.Tensor:
        """The importance of each head's strongest edge in each row's route, 0 for one that is not on it
        [rows, layers, heads]: for `averaged`."""
        found = torch.zeros(self.rows, *self.shape)
        for edge in self.edges:
            if edge.kind == "attention":
                place = found[edge.row, edge.layer]
                place[edge.head] = max(float(place[edge.head]), edge.importance)
        return found


def importances(terms: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Of terms [T, D] that sum to a vector [D], each one's share in it [T]: how much nearer it brings their
    sum, max(0, |y| - |y - z|) in L1, over the sum of these. Zeros where no term brings it nearer."""
    nearer = (total.abs().sum() - (total - terms).abs().sum(-1)).clamp_min(0)
    return nearer / nearer.sum().clamp_min(torch.finfo(nearer.dtype).tiny)


@method("information_flow_routes", family="inspect", paper="arXiv:2403.00824")
@torch.no_grad()
def information_flow_routes(
    heads: AttentionHeads, batch: RaggedBatch, *, threshold: float = 0.04, where: At | None = None
) -> Routes:
    """For each row the subgraph of its forward pass that a prediction was made of, found in this one pass:
    from the last layer down, whatever made a representation that is on the route is on it too, where its
    share (`importances`) is at least the threshold.

    A layer's attention adds a term for each head and position that it looks at, beside the stream and the
    output's bias; its feed-forward block one more. With a threshold of 0 everything that can reach the
    prediction is kept.

    Parameters
    ----------
    threshold: the lower, the larger the route. where: the tokens that predict, by default the last
        of each row.

    Ferrando and Voita 2024. Raises BackboneError where the residual stream is no plain sum (BERT).
    """
    layers = range(heads.n_layers)
    sites = [site_of(layer, part) for layer in layers for part in ("pattern", "value")]
    run = streams(heads, batch, sites)
    kept = set((At([-1]) if where is None else where).tokens(batch).nonzero()[:, 0].tolist())
    edges: list[Edge] = []
    for layer in reversed(layers):
        for step in (_through_mlp, _through_attention):
            new = [
                (start, edge)
                for token in sorted(kept)
                for start, edge in step(run, batch, layer, token)
                if edge.importance >= threshold
            ]
            edges += [edge for _, edge in new]
            kept = {start for start, _ in new}
    return Routes(edges, len(batch), heads.shape)


def _through_mlp(run: Streams, batch: RaggedBatch, layer: int, token: int) -> Iterator[tuple[int, Edge]]:
    """The edges into a token behind a layer, each with the token that it starts at."""
    terms = torch.stack([run.between(layer)[token], run.mlp(layer)[token]])
    row, position = int(batch.row_of_token[token]), int(batch.positions[token])
    kinds: tuple[Kind, ...] = ("around mlp", "mlp")
    for kind, share in zip(kinds, importances(terms, run.before[layer + 1][token]).tolist(), strict=True):
        yield token, Edge(row, layer, kind, -1, position, position, share)


def _through_attention(
    run: Streams, batch: RaggedBatch, layer: int, token: int
) -> Iterator[tuple[int, Edge]]:
    """The edges into a token between the two blocks of a layer."""
    row, position = int(batch.row_of_token[token]), int(batch.positions[token])
    terms = attention_terms(run, batch, layer, token)
    count, seen, _ = terms.shape
    others = torch.stack([run.before[layer][token], run.heads.output_bias(layer)])
    whole = torch.cat([terms.flatten(0, 1), others])
    shares = importances(whole, run.between(layer)[token]).tolist()
    start = int(batch.starts[row])
    for head in range(count):
        for source, share in enumerate(shares[head * seen : (head + 1) * seen]):
            yield start + source, Edge(row, layer, "attention", head, source, position, share)
    yield token, Edge(row, layer, "around attention", -1, position, position, shares[-2])


def attention_terms(run: Streams, batch: RaggedBatch, layer: int, token: int) -> torch.Tensor:
    """What each head of a layer adds to a token's stream from each position that it can look at [heads, seen,
    D]; with the stream before and the output's bias they sum to the stream after."""
    heads, row = run.heads, int(batch.row_of_token[token])
    seen = int(batch.positions[token]) + 1 if heads.backbone.causal else batch.lengths[row]
    start = int(batch.starts[row])
    groups = [heads.key_head(layer, head) for head in range(heads.counts[layer])]
    values = run.found[site_of(layer, "value")][start : start + seen, groups]
    weights = run.found[site_of(layer, "pattern")][token, :, :seen]
    return torch.einsum("hs,shw,hwd->hsd", weights, values, heads.output_weight(layer))
