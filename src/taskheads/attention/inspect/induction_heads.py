"""Induction heads: attention heads that look for what came after the same token before, and say it again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.scores import HeadScores
from taskheads.attention.statistics import Statistic, statistics, taken
from taskheads.attention.vocabulary import lone, token_map, unembedding
from taskheads.backbone.changes import Changes
from taskheads.backbone.patterns import Seen
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.errors import ConfigError
from taskheads.methods import method


def repeated(
    tokens: Sequence[int], period: int, rows: int, *, opening: int | None = None, seed: int = 0
) -> list[Encoded]:
    """Rows of `period` different random tokens, and the same again, after an opening token if there is one.

    Raises ConfigError for a period longer than there are tokens."""
    if period > len(tokens):
        raise ConfigError(f"{len(tokens)} tokens are too few for a period of {period} different ones")
    draw, before = np.random.default_rng(seed), [] if opening is None else [opening]
    once = [draw.permutation(np.asarray(tokens))[:period] for _ in range(rows)]
    return [Encoded(np.concatenate([before, some, some]).astype(np.int64)) for some in once]


def to_after(period: int) -> Statistic:
    """The weight of the key one after the query's own place a period before; of queries in the second copy,
    the last `period` tokens of a row."""

    def statistic(seen: Seen, batch: RaggedBatch) -> torch.Tensor:
        ends = batch.counts[torch.from_numpy(seen.rows).to(batch.counts.device)][:, None]
        second = seen.queries >= ends - period
        return taken(seen, torch.where(second, seen.queries - period + 1, -1))

    return statistic


@method("induction_heads", family="inspect", paper="arXiv:2209.11895")
def prefix_matching(heads: AttentionHeads, batches: Iterable[RaggedBatch], period: int) -> HeadScores:
    """For every attention head of a decoder, how much the tokens of the second copy of a repeated random row
    look at the token after their own first appearance: 1 for an induction head.

    Parameters
    ----------
    batches: of rows as `repeated` makes them. period: of their tokens.

    Olsson et al. 2022, appendix. An induction head copies, too: see `copying`.
    """
    about = {"model": heads.backbone.name, "fingerprint": heads.backbone.fingerprint, "period": period}
    found = statistics(heads, batches, {"prefix matching": to_after(period)})["prefix matching"]
    return found.about(**about)


@torch.no_grad()
def copying(heads: AttentionHeads, language_head: nn.Module, tokens: Sequence[int]) -> HeadScores:
    """For every attention head, how much looking at a token raises that token's own logit: the sum of the
    eigenvalues of W_E W_V W_O W_U between the tokens over the sum of their sizes, from -1 to 1.

    Elhage et al. 2021, "Detecting copying behavior"; effective embeddings, and norms as
    `taskheads.attention.vocabulary` has them. A head that writes nothing to tokens has 0.
    """
    streams, unembedded = lone(heads, tokens), unembedding(heads, language_head)[list(tokens)]
    found = torch.full(heads.shape, torch.nan)
    for layer in range(heads.n_layers):
        mapped = token_map(heads, layer, streams, unembedded)
        values = mapped.eigenvalues()
        size = values.abs().sum(1)
        found[layer, : len(size)] = torch.where(size > 0, values.real.sum(1) / size, 0.0).cpu()
    backbone = heads.backbone
    return HeadScores.of(found, measured="copying", model=backbone.name, fingerprint=backbone.fingerprint)


@torch.no_grad()
def token_losses(
    heads: AttentionHeads, language_head: nn.Module, batch: RaggedBatch, changes: Changes | None = None
) -> torch.Tensor:
    """The loss of each token, given those before it in its row, in nats [N]; NaN for the first."""
    output = heads.backbone.run(batch, ["output"], changes)["output"]
    losses = output.new_full((len(batch.ids),), torch.nan)
    later = batch.positions > 0
    losses[later] = cross_entropy(language_head(output[later.roll(-1)]), batch.ids[later], reduction="none")
    return losses


def in_context_score(losses: torch.Tensor, batch: RaggedBatch, early: int, late: int) -> float:
    """The in-context learning score: the mean loss of the tokens at position `late` of their rows less that
    at `early`; the paper takes the 500th and the 50th (losses as `token_losses` gives them)."""
    return float(losses[batch.positions == late].mean() - losses[batch.positions == early].mean())
