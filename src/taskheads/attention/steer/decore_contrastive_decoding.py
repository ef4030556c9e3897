"""Generation that contrasts a model with itself without its retrieval heads: DeCoRe."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import nn

from taskheads.attention.changed import Changed
from taskheads.attention.changing import scaled
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Changes
from taskheads.backbone.generating import generate
from taskheads.backbone.ragged import RaggedBatch
from taskheads.methods import method


@method("decore_contrastive_decoding", family="steer", paper="arXiv:2410.18860")
def decore(
    backbone: Backbone,
    language_head: nn.Module,
    batch: RaggedBatch,
    masked: Iterable[tuple[int, int]],
    *,
    most: int,
    stop: Collection[int] = (),
    strength: float = 1.0,
) -> list[list[int]]:
    """DeCoRe: each next token is the likeliest after what a model without its retrieval heads would say is
    taken off: the new tokens of each row.

    Gema et al. 2024: log p ∝ (1 + α) log p_base - α log p_masked, α the entropy of p_base (in nats), so that
    the contrast counts only where the model is in doubt. The rows run twice in one batch, as they are and
    with the outputs of the `masked` heads zero; both copies go on with the same token.

    Parameters
    ----------
    masked: retrieval heads, the best of their scores. strength: α is so many times the entropy; 0 is greedy
        decoding. most, stop: as `generate` takes them.
    """
    some = list(masked)

    def changing(both: RaggedBatch, past: Sequence[int]) -> Changes:
        second = torch.arange(len(both.ids), device=both.ids.device) >= len(both.ids) // 2
        return scaled(some, 0, tokens=second)

    twice = batch.repeated(2)
    found = generate(
        Changed(backbone, changing), _Contrast(language_head, strength), twice, most=most, stop=stop
    )
    return found[: len(batch)]


def contrasted(base: torch.Tensor, masked: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """The log probabilities [..., vocabulary] of the contrast between two sets of logits."""
    likely, masked = base.log_softmax(-1), masked.log_softmax(-1)
    doubt = strength * torch.special.entr(likely.exp()).sum(-1, keepdim=True)
    return ((1 + doubt) * likely - doubt * masked).log_softmax(-1)


class _Contrast(nn.Module):
    """From the outputs of rows and of their masked copies [2 n, D] to what both shall say [2 n, tokens]."""

    def __init__(self, language_head: nn.Module, strength: float) -> None:
        super().__init__()
        self.language_head, self.strength = language_head, strength

    def forward(self, output: torch.Tensor) -> torch.Tensor:
        base, masked = self.language_head(output).chunk(2)
        return contrasted(base, masked, self.strength).repeat(2, 1)
