"""Attention heads' outputs mixed with those of a task that was shown by examples: soft injection."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from taskheads.attention.asked import Asked, answered, descend
from taskheads.attention.changing import Found, replaced
from taskheads.attention.few_shot import mean_last_outputs
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.scores import HeadScores
from taskheads.attention.where import At
from taskheads.attention.which import AttentionHead
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.methods import method


@method("soft_injection", family="steer", paper="arXiv:2507.20906")
@dataclass(frozen=True)
class SoftInjection:
    """Soft injection: at the last token the output of each attention head is mixed with its mean over
    few-shot prompts of a task, z ← (1 - α) z + α t, so that the task is done without examples in the prompt.

    Park and Rhee 2025. One α = σ(a) is learned for each head, with the model frozen; together they
    are a map of the heads that the task needs (`scores`), and may serve another task with its own t.

    Attributes
    ----------
    embeddings: t by site [heads, width]. shares: α [layers, heads]; 0 changes nothing.
    heads: all those that α speaks of.
    """

    embeddings: Found
    shares: torch.Tensor
    heads: Sequence[AttentionHead]

    def __call__(self, batch: RaggedBatch, past: Sequence[int] | None = None) -> Changes:
        last = At([-1]).tokens(batch, past)
        return replaced(self.heads, self.embeddings, self.shares, tokens=last)

    @property
    def scores(self) -> HeadScores:
        return HeadScores.of(self.shares, score="share of the task's embedding")

    @classmethod
    def fit(
        cls,
        heads: AttentionHeads,
        shown: Iterable[RaggedBatch],
        asked: Asked,
        *,
        steps: int = 200,
        lr: float = 0.1,
    ) -> SoftInjection:
        """With α by gradient descent (Adam), from 1/2 on.

        shown: few-shot prompts of the task, 50 or so, ending where the answer is asked. asked: rows without
        examples, with the log probability of their answers.
        """
        embeddings = mean_last_outputs(heads, shown)
        free = torch.zeros(heads.shape, device=heads.backbone.device, requires_grad=True)

        def loss() -> torch.Tensor:
            return -answered(heads.backbone, asked, cls(embeddings, free.sigmoid(), heads.which())).mean()

        descend(heads.backbone, [free], loss, steps=steps, lr=lr)
        return cls(embeddings, free.detach().sigmoid(), heads.which())
