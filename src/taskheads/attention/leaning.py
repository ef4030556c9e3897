"""Which attention heads one answer leaned on."""

from __future__ import annotations

from functools import singledispatch

import torch

from taskheads.attention.changing import scaled
from taskheads.attention.heads import AttentionHeads
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.backbone.reads import pool
from taskheads.edits.edited import frozen
from taskheads.heads import EmbedHead, Head, Request, TagHead
from taskheads.heads.classify import ClassifyHead
from taskheads.heads.multilabel import MultilabelHead
from taskheads.heads.ordinal import OrdinalHead
from taskheads.heads.regress import RegressHead
from taskheads.model.features import items_of
from taskheads.tasks.task import Examples

_OUTSIDE = "O"  # the tag of a word that is in no span
_TINY = 1e-12


def leaning(
    heads: AttentionHeads, backbone: Backbone, head: Head, row: Examples
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a task head's answer to one row stands on: the answer's strength, a number, and its gradient by a
    gate ξ = 1 on every attention head's output at all tokens of the row (of both texts, where it has two)
    [layers, heads]; NaN for attention heads that are not there.

    To first order it is by how much the strength would fall were that attention head taken out: positive
    where it spoke for the answer, negative where it spoke against it, 0 exactly for what stands above all
    that the task reads. It is the derivative of Michel et al. 2019 (arXiv:1905.10650), equation 2, with its
    sign kept, and with the strength of the answer in place of the loss. See `strength`.

    Parameters
    ----------
    heads: the attention heads of the backbone that all tasks share.
    backbone: what the task's head reads, which may have an edit on top.
    row: one row without a label, cut at the tokenizer's limit.
    """
    dtype = next(head.parameters()).dtype
    gates = torch.ones(heads.shape, dtype=dtype, device=backbone.device, requires_grad=True)
    with frozen(backbone), torch.enable_grad():
        said = strength(head, *_scores(backbone, head, row, scaled(heads.which(), gates)))
        (slopes,) = torch.autograd.grad(said, gates, materialize_grads=True, allow_unused=True)
    for layer, count in enumerate(heads.counts):
        slopes[layer, count:] = torch.nan
    return said.detach(), slopes


def scale(head: Head) -> str:
    """What `strength` is measured in: "value", "cosine" or "log-odds"."""
    if isinstance(head, RegressHead):
        return "value"
    return "cosine" if isinstance(head, EmbedHead) else "log-odds"


@singledispatch
def strength(head: Head, scores: torch.Tensor, lengths: list[int] | None) -> torch.Tensor:
    """How strongly a head's scores of one row say what they say, one number:

    a label or level of probability p: the log-odds, log p / (1 - p);
    labels: the sum of their log-odds; where it gives none, minus the highest of all;
    tags: the mean of their log-odds, by the words' own scores, over the words that have another tag than "O",
    over all where there is none;
    a number: itself, so that what is positive makes it larger; two texts of a search: their cosine.
    """
    raise NotImplementedError(type(head).__name__)


@strength.register
def _(head: ClassifyHead, scores: torch.Tensor, lengths: list[int] | None) -> torch.Tensor:
    return _log_odds(scores, scores.argmax(1))[0]


@strength.register
def _(head: OrdinalHead, scores: torch.Tensor, lengths: list[int] | None) -> torch.Tensor:
    above = (scores.double() - head.thresholds.detach()).sigmoid()[0]
    level = int((above > 0.5).sum())
    edges = torch.cat([above.new_ones(1), above, above.new_zeros(1)])
    return (edges[level] - edges[level + 1]).logit(_TINY).to(scores.dtype)


@strength.register
def _(head: MultilabelHead, scores: torch.Tensor, lengths: list[int] | None) -> torch.Tensor:
    given = torch.from_numpy(head.decide(scores.detach()).predicted[0])
    return scores[0][given].sum() if given.any() else -scores[0].max()


@strength.register
def _(head: TagHead, scores: torch.Tensor, lengths: list[int] | None) -> torch.Tensor:
    (tags,) = head.decide(scores.detach(), lengths).predicted
    chosen = torch.tensor([head.task.labels.index(tag) for tag in tags])
    inside = torch.tensor([tag != _OUTSIDE for tag in tags])
    odds = _log_odds(scores, chosen)
    return (odds[inside] if inside.any() else odds).mean()


@strength.register
def _(head: RegressHead, scores: torch.Tensor, lengths: list[int] | None) -> torch.Tensor:
    return scores[0, 0]


@strength.register
def _(head: EmbedHead, scores: torch.Tensor, lengths: list[int] | None) -> torch.Tensor:
    return scores[0, 0] @ scores[1, 0]


def _log_odds(scores: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Of one class in each row of scores [n, classes]: its own less what all others come to."""
    others = scores.scatter(1, chosen[:, None], -torch.inf).logsumexp(1)
    return scores.gather(1, chosen[:, None])[:, 0] - others


def _scores(
    backbone: Backbone, head: Head, row: Examples, changes: Changes
) -> tuple[torch.Tensor, list[int] | None]:
    """What the head says of the row, and how many words it has where scores are of words. Every request of
    the head is a row of one batch."""
    batch = RaggedBatch([_encoded(backbone, request, row) for request in head.requests]).to(backbone.device)
    found = backbone.run(batch, list(dict.fromkeys(read.site for read in head.reads)), changes)
    like = next(head.parameters())
    pooled = {read: pool(found[read.site], batch, read.pooling).to(like) for read in head.reads}
    if isinstance(head, TagHead):
        return head(head.gather([pooled])), [len(row.inputs[0][0])]
    sides = [{read: values[at : at + 1] for read, values in pooled.items()} for at in range(len(batch))]
    return head(head.gather(sides)), None


def _encoded(backbone: Backbone, request: Request, row: Examples) -> Encoded:
    tokens, (item,) = backbone.tokens, items_of(request, row)
    assert tokens is not None
    if request.form == "pair":
        return tokens.pairs([item[0]], [item[1]])[0]
    return (tokens.words if request.form == "words" else tokens.texts)([item])[0]
