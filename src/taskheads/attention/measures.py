"""What is asked of a pass: one number for each row, from the vector that the row is read by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.scores import HeadScores, Mean
from taskheads.backbone.ragged import RaggedBatch

# From the backbone's output, pooled for each row, [..., rows, D], to a number of each row [..., rows]. Rows
# come in the order of the batch; before them there may be a dimension for variants.
Measure = Callable[[torch.Tensor], torch.Tensor]


def logit_difference(head: nn.Module, right: Sequence[int], wrong: Sequence[int]) -> Measure:
    """The logit of each row's right token less that of a wrong one [rows]; `head` maps to logits."""
    weight, bias = _weights(head)
    first, second = torch.as_tensor(right), torch.as_tensor(wrong)
    towards, more = weight[first] - weight[second], bias[first] - bias[second]
    return lambda vectors: (vectors * towards).sum(-1) + more


def log_probability(head: nn.Module, answers: Sequence[int]) -> Measure:
    """Of each row's answer [rows], in nats; `head` maps to logits."""
    index = torch.as_tensor(answers)

    def measure(vectors: torch.Tensor) -> torch.Tensor:
        chances = head(vectors).log_softmax(-1)
        return chances.gather(-1, index.to(chances.device).expand(chances.shape[:-1])[..., None])[..., 0]

    return measure


def averaged(
    heads: AttentionHeads,
    batches: Iterable[RaggedBatch],
    scored: Callable[[RaggedBatch], torch.Tensor],
    **manifest: Any,
) -> HeadScores:
    """Scores of every head: the mean over all rows of what `scored` gives for each, [rows, layers, heads],
    batch by batch in constant memory. The manifest names the model by its fingerprint."""
    mean = Mean(heads.shape)
    for batch in batches:
        mean.add(scored(batch))
    return mean.scores({"model": heads.backbone.name, "fingerprint": heads.backbone.fingerprint, **manifest})


def _weights(head: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    weight: Any = head.weight
    bias: Any = getattr(head, "bias", None)
    return weight, weight.new_zeros(len(weight)) if bias is None else bias
