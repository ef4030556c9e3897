"""Memory heads, or context heads, taken out where the two are in conflict: PH3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from taskheads.attention.alone import alone
from taskheads.attention.changing import scaled
from taskheads.attention.conflicts import Conflict, Source
from taskheads.attention.folding import folded
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import averaged
from taskheads.attention.paths import direct_path, head_outputs
from taskheads.attention.scores import HeadScores
from taskheads.attention.which import AttentionHead, Which
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import ConfigError
from taskheads.methods import method


@method("ph3_head_pruning", family="steer", paper="arXiv:2402.18154")
@dataclass(frozen=True)
class HeadPruning:
    """PH3: the attention heads that speak for a model's memory, or those that speak for its context, are
    found by path patching and taken out.

    Jin et al. 2024. Their number is all there is to choose; no weight is trained.

    Attributes
    ----------
    heads: those that are taken out.
    """

    heads: Sequence[AttentionHead]

    def __call__(self, batch: RaggedBatch, past: Sequence[int] | None = None) -> Changes:
        return scaled(self.heads, 0)

    def fold(self, heads: AttentionHeads) -> dict[str, torch.Tensor]:
        """The weights, by name, that do the same."""
        return folded(heads, dict.fromkeys(self.heads, 0.0))

    @classmethod
    def fit(cls, scores: HeadScores, favour: Source, count: int) -> HeadPruning:
        """By the scores of `path_effects`: to favour the context, the `count` heads that speak most for
        memory are taken out, and the other way round. A head that does not speak for it is never taken."""
        heads = scores.top(count, smallest=favour == "context")
        sign = -1 if favour == "context" else 1
        return cls([head for head in heads if sign * scores.values[head] > 0])


def path_effects(
    heads: AttentionHeads,
    language_head: nn.Module,
    conflicts: Mapping[RaggedBatch, Conflict],
    which: Which = "all",
) -> HeadScores:
    """What each attention head does directly for the logit of the context's answer less that of memory: how
    much this falls when the head, on its path to the logits alone, has its output of a corrupted row. Above 0
    are context heads, below it memory heads.

    conflicts: by the batch of corrupted rows (of the same lengths, without subject or context, say). which:
    all heads, or those of later layers. A pass for each head and batch.

    Raises ConfigError for corrupted rows of other lengths.
    """
    for batch, conflict in conflicts.items():
        if batch.lengths != conflict.batch.lengths:
            raise ConfigError(
                f"corrupted rows have lengths {batch.lengths}, and not {conflict.batch.lengths}"
            )
    corrupted = {conflict.batch: batch for batch, conflict in conflicts.items()}
    by_batch = {conflict.batch: conflict for conflict in conflicts.values()}

    def scored(batch: RaggedBatch) -> torch.Tensor:
        clean, donor = head_outputs(heads, batch), head_outputs(heads, corrupted[batch])
        measure = by_batch[batch].difference(language_head)
        return -alone(heads, batch, measure, lambda head: direct_path(heads, [head], donor, clean), which)

    return averaged(heads, by_batch, scored)
