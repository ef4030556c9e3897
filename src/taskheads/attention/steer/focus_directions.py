"""Queries and keys of contextual heads moved so that they look at the context, not at the sink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from taskheads.attention.asked import descend
from taskheads.attention.changing import Found, moved, site_of
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.scores import HeadScores
from taskheads.attention.statistics import statistics, to_keys
from taskheads.attention.where import At
from taskheads.attention.which import AttentionHead, Which, by_layer
from taskheads.backbone.changes import Changes
from taskheads.backbone.patterns import Seen
from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.composing import then
from taskheads.errors import ConfigError
from taskheads.methods import method

# Batches, each with those of its tokens, bool [N], that matter to what is asked at a row's last token.
Relevant = Mapping[RaggedBatch, torch.Tensor]


@method("focus_directions", family="steer", paper="arXiv:2503.23306")
@dataclass(frozen=True)
class FocusDirections:
    """Focus directions: for the few heads that look at what matters in a context, α d_q is added to the query
    of the token that the answer comes out of and α d_k to every key but the first token's, which takes weight
    from that sink to the context, without a word about what in it matters.

    Zhu et al. 2025. Both directions are learned, with the model frozen, where it is known what matters.
    Queries and keys are meant as attention receives them, turned by position where a model turns them; under
    grouped queries d_k is the group's.

    Attributes
    ----------
    heads, key_heads: whose queries and whose keys. directions: by site, d_q [heads, width] and d_k
        [key heads, width]. alpha: α; 0 changes nothing, below 0 the sink gets more.
    """

    heads: Sequence[AttentionHead]
    key_heads: Sequence[tuple[int, int]]
    directions: Found
    alpha: float = 1.0

    def at(self, alpha: float) -> FocusDirections:
        """The same with another α."""
        return replace(self, alpha=alpha)

    def __call__(self, batch: RaggedBatch, past: Sequence[int] | None = None) -> Changes:
        asking, context = At([-1]).tokens(batch, past), ~At([0]).tokens(batch, past)
        queries = moved(self.heads, self.directions, self.alpha, part="query", tokens=asking)
        return then(queries, moved(self.key_heads, self.directions, self.alpha, part="key", tokens=context))

    @classmethod
    def fit(
        cls, heads: AttentionHeads, relevant: Relevant, which: Which, *, steps: int = 100, lr: float = 0.05
    ) -> FocusDirections:
        """With directions that make the share of weight on what is relevant as large as can be (its log, so
        that heads which hardly look at it count too), by Adam from zeros on.

        which: contextual heads, the best of `contextual`. Raises ConfigError for a row of which nothing is
        relevant.
        """
        for batch, marked in relevant.items():
            lacking = set(range(len(batch))) - set(batch.row_of_token[marked].tolist())
            if lacking:
                raise ConfigError(f"nothing of row {batch.rows[min(lacking)]} is marked as relevant")
        chosen = heads.which(which)
        key_heads = sorted({(layer, heads.key_head(layer, head)) for layer, head in chosen})
        directions = {}
        for layer in by_layer(chosen):
            for part, count in (("query", heads.counts[layer]), ("key", heads.key_counts[layer])):
                zeros = torch.zeros(count, heads.width, device=heads.backbone.device)
                directions[site_of(layer, part)] = zeros.requires_grad_()
        free = cls(chosen, key_heads, directions)

        def loss() -> torch.Tensor:
            parts = [_focus(heads, free, batch, marked).log() for batch, marked in relevant.items()]
            return -torch.cat(parts).mean()

        descend(heads.backbone, list(directions.values()), loss, steps=steps, lr=lr)
        return replace(free, directions={site: each.detach() for site, each in directions.items()})


def contextual(heads: AttentionHeads, relevant: Relevant) -> HeadScores:
    """How much of its weight each head gives to what is relevant, from a row's last token."""

    def statistic(seen: Seen, batch: RaggedBatch) -> torch.Tensor:
        given = to_keys(relevant[batch])(seen, batch)
        last = batch.counts[torch.from_numpy(seen.rows).to(given.device)] - 1
        return given.masked_fill((seen.queries != last[:, None])[:, None], torch.nan)

    return statistics(heads, relevant, {"contextual": statistic})["contextual"]


def _focus(
    heads: AttentionHeads, changing: FocusDirections, batch: RaggedBatch, marked: torch.Tensor
) -> torch.Tensor:
    """The weight that each of its heads gives to what is marked, from each row's last token, end to end."""
    chosen = by_layer(changing.heads)
    patterns = heads.backbone.run(
        batch, [site_of(layer, "pattern") for layer in chosen], changing(batch, [0] * len(batch))
    )
    keys = torch.zeros(len(batch), max(batch.lengths), dtype=torch.bool, device=marked.device)
    keys[batch.row_of_token, batch.positions] = marked
    last = At([-1]).tokens(batch)
    return torch.cat(
        [
            (patterns[site_of(layer, "pattern")][last][:, some] * keys[:, None]).sum(-1).flatten()
            for layer, some in chosen.items()
        ]
    )
