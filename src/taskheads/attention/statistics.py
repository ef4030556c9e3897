"""Numbers that say how attention heads look at a text, taken from their patterns piece by piece.

A pattern is seen in pieces (`taskheads.backbone.patterns.Seen`) that are never kept, so that neither the
length of a row nor the size of a data set costs memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.scores import HeadScores, Mean
from taskheads.backbone.changes import Changes
from taskheads.backbone.patterns import Seen
from taskheads.backbone.ragged import RaggedBatch

# From a piece of a pattern and its batch to a number for each query, [rows, heads, queries]; NaN for a query
# that does not count.
Statistic = Callable[[Seen, RaggedBatch], torch.Tensor]


def to_offset(offset: int) -> Statistic:
    """The weight of the key at this distance: -1 is the token before, 0 itself, 1 the next. Queries that have
    none there do not count."""

    def statistic(seen: Seen, batch: RaggedBatch) -> torch.Tensor:
        return taken(seen, seen.queries + offset)

    return statistic


def to_first(seen: Seen, batch: RaggedBatch) -> torch.Tensor:
    """The weight of the row's first token, where attention that is not needed goes; the first query apart."""
    weights = seen.weights[..., 0]
    return weights.masked_fill(seen.queries == 0, torch.nan) if seen.start == 0 else weights


def entropy(seen: Seen, batch: RaggedBatch) -> torch.Tensor:
    """Of the weights, in nats: 0 for a single key, log n for n alike."""
    return -torch.special.xlogy(seen.weights, seen.weights).sum(-1)


def distance(seen: Seen, batch: RaggedBatch) -> torch.Tensor:
    """Mean distance in tokens between a query and the keys that it looks at."""
    keys, queries = seen.keys.to(seen.weights.dtype), seen.queries.to(seen.weights.dtype)
    if seen.causal:
        return queries - seen.weights @ keys
    return (seen.weights * (queries[:, None] - keys).abs()).sum(-1)


def to_tokens(ids: Iterable[int]) -> Statistic:
    """The weight of all keys whose token is one of these (separators, punctuation)."""
    some = torch.tensor(sorted(ids))

    def statistic(seen: Seen, batch: RaggedBatch) -> torch.Tensor:
        mine = torch.isin(tokens_of(seen, batch), some.to(batch.ids.device))
        return torch.einsum("rhqk,rk->rhq", seen.weights, mine.to(seen.weights.dtype))

    return statistic


def to_alike(seen: Seen, batch: RaggedBatch) -> torch.Tensor:
    """The weight of other keys with the query's own token. Queries that may look at none do not count."""
    tokens = tokens_of(seen, batch)
    alike = tokens[:, seen.queries, None] == tokens[:, None, :]
    queries = seen.queries[:, None]
    alike &= seen.keys < queries if seen.causal else seen.keys != queries
    weights = torch.einsum("rhqk,rqk->rhq", seen.weights, alike.to(seen.weights.dtype))
    return weights.masked_fill(~alike.any(-1)[:, None], torch.nan)


def to_keys(marked: torch.Tensor) -> Statistic:
    """The weight of all keys that are marked, bool [N] over the tokens of the batch: one class of them."""

    def statistic(seen: Seen, batch: RaggedBatch) -> torch.Tensor:
        mine = marked[places_of(seen, batch)]
        return torch.einsum("rhqk,rk->rhq", seen.weights, mine.to(seen.weights.dtype))

    return statistic


def taken(seen: Seen, keys: torch.Tensor) -> torch.Tensor:
    """The weight of one key for each query [rows, heads, queries]: `keys` says its position, [queries] or
    [rows, queries]; NaN where there is none, or none that the query may look at."""
    keys = keys.expand(len(seen.rows), -1)
    outside = (keys < 0) | (keys >= seen.weights.shape[3])
    if seen.causal:
        outside |= keys > seen.queries
    index = keys.masked_fill(outside, 0)[:, None, :, None].expand(*seen.weights.shape[:3], 1)
    return seen.weights.gather(3, index)[..., 0].masked_fill(outside[:, None], torch.nan)


def places_of(seen: Seen, batch: RaggedBatch) -> torch.Tensor:
    """Where the tokens at the piece's keys stand in the batch [rows, keys]."""
    rows = torch.from_numpy(seen.rows).to(batch.ids.device)
    return batch.starts[rows, None] + seen.keys


def tokens_of(seen: Seen, batch: RaggedBatch) -> torch.Tensor:
    """The token ids at the piece's keys [rows, keys]."""
    return batch.ids[places_of(seen, batch)]


@torch.inference_mode()
def statistics(
    heads: AttentionHeads,
    batches: Iterable[RaggedBatch],
    wanted: Mapping[str, Statistic],
    layers: Sequence[int] | None = None,
) -> dict[str, HeadScores]:
    """Each statistic of every attention head: the mean over a row's queries, and of that the mean over all
    rows with its error. One pass over the batches, in constant memory.

    layers: of these alone (the others are NaN in the result); the pass ends with the highest.
    """
    layers = list(range(heads.n_layers)) if layers is None else list(layers)
    means = {name: Mean(heads.shape) for name in wanted}
    for batch in batches:
        sums = {name: _RowSums(heads, len(batch)) for name in wanted}

        def watcher(layer: int, batch: RaggedBatch = batch, sums: dict = sums) -> Callable[[Seen], None]:
            def watch(seen: Seen) -> None:
                for name, statistic in wanted.items():
                    sums[name].add(layer, seen.rows, statistic(seen, batch))

            return watch

        heads.backbone.run(batch, (), Changes(watched={layer: watcher(layer) for layer in layers}))
        for name, mean in means.items():
            mean.add(sums[name].means)
    return {name: mean.scores({"statistic": name}) for name, mean in means.items()}


class _RowSums:
    """Sums over the queries of each row, and how many there were."""

    def __init__(self, heads: AttentionHeads, rows: int) -> None:
        self.sums = torch.zeros(rows, *heads.shape, dtype=torch.float64)
        self.counts = torch.zeros_like(self.sums)

    def add(self, layer: int, rows: np.ndarray, values: torch.Tensor) -> None:
        count = (~values.isnan()).sum(-1)
        self.sums[rows, layer, : values.shape[1]] += values.nan_to_num().sum(-1).double().cpu()
        self.counts[rows, layer, : values.shape[1]] += count.cpu()

    @property
    def means(self) -> torch.Tensor:
        """[rows, layers, heads]; NaN where nothing counted."""
        return self.sums / self.counts
