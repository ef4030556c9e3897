"""One attention head scaled so that a model answers from its context, or from memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from taskheads.attention.asked import best_of
from taskheads.attention.changing import scaled
from taskheads.attention.conflicts import Conflict, Source
from taskheads.attention.direct import DirectLogits
from taskheads.attention.folding import folded
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import averaged
from taskheads.attention.scores import HeadScores
from taskheads.attention.where import At
from taskheads.attention.which import AttentionHead
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.methods import method


@method("memory_context_head_scaling", family="steer", paper="arXiv:2310.15910")
@dataclass(frozen=True)
class HeadScaling:
    """The output of one attention head is multiplied by α, which moves the share of answers that come from
    the context.

    Yu, Merullo and Pavlick 2023: the head is found by what it adds, directly, to the logit of the context's
    answer less that of the memorised one, and α is tuned on a few rows. (They scale its values: the same, as
    outputs are linear in them.)

    Attributes
    ----------
    head: which one. alpha: α; 1 changes nothing, 0 takes it out, below 0 turns it round.
    """

    head: AttentionHead
    alpha: float

    def __call__(self, batch: RaggedBatch, past: Sequence[int] | None = None) -> Changes:
        return scaled([self.head], self.alpha)

    def fold(self, heads: AttentionHeads) -> dict[str, torch.Tensor]:
        """The weights, by name, that do the same."""
        return folded(heads, {self.head: self.alpha})

    @classmethod
    def fit(
        cls,
        heads: AttentionHeads,
        language_head: nn.Module,
        conflicts: Sequence[Conflict],
        *,
        favour: Source = "context",
        alphas: Sequence[float] = (1.0, 0.5, 0.0, -1.0, 1.5, 2.0, 3.0, 5.0),
    ) -> HeadScaling:
        """The head that speaks loudest for `favour`, with that of `alphas` under which most rows are answered
        so, the first of equals."""
        scores = attributed_difference(heads, language_head, conflicts)
        (head,) = scores.top(1, smallest=favour == "memory")
        asked = {each.batch: each.answered_by(favour, language_head) for each in conflicts}
        alpha, _ = best_of(heads.backbone, asked, ((alpha, cls(head, alpha)) for alpha in alphas))
        return cls(head, alpha)


def attributed_difference(
    heads: AttentionHeads, language_head: nn.Module, conflicts: Sequence[Conflict]
) -> HeadScores:
    """What each head adds at the last token to the logit of the context's answer less that of memory, on the
    mean: in-context heads are far above 0, memory heads below. A backbone whose residual stream is no plain
    sum is refused, see `DirectLogits`."""
    direct = DirectLogits(heads)
    by_batch = {each.batch: each for each in conflicts}
    weight = language_head.weight
    assert isinstance(weight, torch.Tensor)

    @torch.inference_mode()
    def scored(batch: RaggedBatch) -> torch.Tensor:
        context, memory = (
            weight[torch.as_tensor(tokens)] for tokens in (by_batch[batch].context, by_batch[batch].memory)
        )
        return direct(batch, (context - memory)[:, None], At([-1]).tokens(batch)).heads[..., 0]

    return averaged(heads, by_batch, scored)
