"""Attention written out: scores, and the weights that they become, which SDPA never makes.

They are computed for those layers alone where something reads or changes them; everywhere else, and for
every token whose weights are not changed, the output stays SDPA's, bit for bit. Weights have no dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from taskheads.backbone.dropout import dropout as dropped
from taskheads.backbone.groups import Group

# Weights of a block that are computed at once, where a pattern is only looked at: they stay in the caches.
_AT_ONCE = 1 << 19


@dataclass(frozen=True)
class Seen:
    """A piece of a layer's attention pattern: some queries of rows of equal length.

    Attributes
    ----------
    rows: which rows of the batch they are.
    start: the position in its row of the first query.
    weights: [rows, attention heads, queries, keys]; the keys are those of the positions from 0 on, and under
        a causal mask none after the last query. Each query's weights sum to 1.
    causal: whether no query may look at a key after it.
    """

    rows: np.ndarray
    start: int
    weights: torch.Tensor
    causal: bool

    @property
    def queries(self) -> torch.Tensor:
        """The queries' positions in their rows [queries]."""
        return torch.arange(self.weights.shape[2], device=self.weights.device) + self.start

    @property
    def keys(self) -> torch.Tensor:
        """The keys' positions in their rows [keys]."""
        return torch.arange(self.weights.shape[3], device=self.weights.device)


# Who is shown the pattern of a layer, piece by piece.
Watcher = Callable[[Seen], None]
# From what stands at the site of a layer, [..., tokens, attention heads, keys], to what shall stand there.
Visit = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Block:
    """Rows of equal length as dense attention takes them.

    query [rows, attention heads, queries, width], key and value [rows, key heads, keys, width];
    mask: who may look at whom as bool, or what is added to the scores; None for all. causal: nobody at what
    comes after. scale: of the scores. group: which rows; None for all, padded.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    causal: bool
    scale: float | None
    group: Group | None = None

    def attend(self, dropout: float) -> torch.Tensor:
        """The attention heads' outputs [rows, attention heads, queries, width]."""
        if dropout and self.query.device.type == "cpu":
            # SDPA has no kernel with dropout there, and would write it out as well.
            return self.mixed(dropped(softmax(self.scores()), dropout))
        return scaled_dot_product_attention(
            self.query,
            self.key,
            self.value,
            attn_mask=self.mask,
            dropout_p=dropout,
            is_causal=self.causal and self.mask is None,
            scale=self.scale,
            enable_gqa=self.key.shape[1] != self.query.shape[1],
        )

    def scores(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Before softmax, of some of the queries: [rows, attention heads, queries, keys], -inf where it may
        not look. Under a causal mask the keys after the last of these queries are left out."""
        stop = self.query.shape[2] if stop is None else stop
        before = self.key.shape[2] - self.query.shape[2]
        reach = before + stop if self.causal else self.key.shape[2]
        scale = self.query.shape[-1] ** -0.5 if self.scale is None else self.scale
        query = self.query[:, :, start:stop] * scale
        # The queries of a group side by side: its keys are not repeated for each of them.
        rows, heads, count, width = query.shape
        query = query.reshape(rows, self.key.shape[1], -1, width)
        scores = query @ self.key[:, :, :reach].transpose(-1, -2)
        scores = scores.view(rows, heads, count, reach)
        if self.mask is not None:
            mask = self.mask[..., start:stop, :reach] if self.mask.shape[-2] > 1 else self.mask[..., :reach]
            if mask.dtype == torch.bool:
                scores = scores.masked_fill(~mask, -torch.inf)
            else:
                blocked = mask <= torch.finfo(mask.dtype).min / 2
                scores = (scores + mask).masked_fill(blocked, -torch.inf)
        if self.causal and count > 1:
            after = torch.ones(count, count, dtype=torch.bool, device=scores.device).triu(1)
            scores[..., before + start :].masked_fill_(after, -torch.inf)
        return scores

    def mixed(self, weights: torch.Tensor) -> torch.Tensor:
        """The values, mixed by weights [rows, attention heads, queries, keys]."""
        rows, heads, count, keys = weights.shape
        weights = weights.reshape(rows, self.value.shape[1], -1, keys)
        return (weights.to(self.value.dtype) @ self.value).view(rows, heads, count, -1)

    def pieces(self) -> Iterator[Seen]:
        """Its pattern, a few queries at a time."""
        rows, heads, count, _ = self.query.shape
        keys = self.key.shape[2]
        step = max(1, _AT_ONCE // (rows * heads * keys))
        numbers = np.arange(rows) if self.group is None else self.group.rows
        for start in range(0, count, step):
            scores = self.scores(start, min(count, start + step))
            yield Seen(numbers, keys - count + start, softmax(scores), self.causal)


def softmax(scores: torch.Tensor) -> torch.Tensor:
    """Over the keys; where there is none to look at, nothing but zeros."""
    weights = scores.softmax(-1)
    if bool(scores[..., 0].isneginf().any()):
        nowhere = scores.isneginf().all(-1, keepdim=True)
        if bool(nowhere.any()):
            return scores.masked_fill(nowhere, 0).softmax(-1).masked_fill(nowhere, 0)
    return weights


def patterned(
    output: torch.Tensor,
    blocks: Sequence[Block],
    order: torch.Tensor | None,
    at_scores: Visit,
    at_pattern: Visit,
) -> torch.Tensor:
    """What the output of attention [..., tokens, attention heads, width] becomes when scores and pattern are
    read or changed: a token's output is made anew where its weights are others, or have a gradient.

    blocks: all rows of the batch, in `order` of their tokens (None: as they stand). Both visits are handed
    [..., tokens, attention heads, longest row], each token's keys being the positions in its own row.
    """
    scores = _in_order([block.scores() for block in blocks], order)
    scores = scores.unflatten(0, output.shape[:2])
    given = at_scores(scores)
    weights = softmax(scores)
    final = at_pattern(weights if given is scores else softmax(given))
    if final is weights:
        return output
    parts = final.flatten(0, 1)
    parts = parts if order is None else parts[order]
    made, start = [], 0
    for block in blocks:
        rows, _, count, _ = block.query.shape
        own = parts[start : start + rows * count, :, : block.key.shape[2]]
        made.append(
            block.mixed(own.unflatten(0, (rows, count)).transpose(1, 2)).transpose(1, 2).flatten(0, 1)
        )
        start += rows * count
    anew = torch.cat(made)
    if order is not None:
        anew = torch.empty_like(anew).index_copy(0, order, anew)
    anew = anew.view_as(output)
    return anew if final.requires_grad else torch.where((final != weights).any(-1, True), anew, output)


def _in_order(blocks: Sequence[torch.Tensor], order: torch.Tensor | None) -> torch.Tensor:
    """Blocks [rows, heads, queries, keys] as [tokens, heads, most keys], -inf beyond a row's end."""
    most = max(block.shape[-1] for block in blocks)
    flat = torch.cat(
        [
            torch.nn.functional.pad(
                block.transpose(1, 2).flatten(0, 1), (0, most - block.shape[-1]), value=-torch.inf
            )
            for block in blocks
        ]
    )
    if order is not None:
        flat = torch.empty_like(flat).index_copy(0, order, flat)
    return flat
