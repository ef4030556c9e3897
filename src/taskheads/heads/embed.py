"""Search: queries and documents as unit vectors whose inner product says how well they match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from taskheads.backbone.reads import Read
from taskheads.heads.head import Decisions, Head, Request
from taskheads.tasks.metrics import ranks_of_relevant
from taskheads.tasks.task import Task


class EmbedHead(Head):
    """Both texts through one linear map each, then scaled to length one.

    The map undoes what varies between a query and its own document: within-class covariance normalisation
    (Hatch et al. 2006), W = (S + g I)^(-1/2), S being the covariance of query - document over the matching
    pairs of train, with each side's own mean taken out. With an infinite g it is the plain cosine.
    """

    kind = "embed"
    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, task: Task, reads: Sequence[Read], width: int) -> None:
        super().__init__(task, reads, width)
        size = len(self.reads) * width
        self.register_buffer("weight", torch.eye(size))
        self.register_buffer("bias", torch.zeros(2, size))

    @classmethod
    def requests_of(cls, task: Task) -> list[Request]:
        return [Request((0,), "text"), Request((1,), "text")]

    def gather(self, found: Sequence[Mapping[Read, torch.Tensor]]) -> torch.Tensor:
        """[2, n, d]: queries, then documents; every read a unit vector."""
        return torch.stack([self.joined(side) for side in found])

    def joined(self, found: Mapping[Read, torch.Tensor]) -> torch.Tensor:
        """The features of one side, [n, d]."""
        return torch.cat([normalize(found[read], dim=-1) for read in self.reads], dim=-1)

    def embed(self, features: torch.Tensor, side: int) -> torch.Tensor:
        """Unit vectors [n, d] of queries (side 0) or documents (side 1) from their features [n, d]."""
        return normalize((features + self.bias[side]) @ self.weight, dim=-1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.embed(features[side], side) for side in (0, 1)])

    def put(self, spread: MatchSpread, shrinkage: float) -> None:
        """Take the map of these pairs; `shrinkage` in (0, 1] is how much of S is replaced by its mean
        variance, so that 1 is the plain cosine."""
        variances = (1 - shrinkage) * spread.variances + shrinkage * spread.variances.mean()
        self.weight.copy_((spread.axes * variances.rsqrt()) @ spread.axes.T)
        self.bias.copy_(-spread.means if shrinkage < 1 else torch.zeros_like(self.bias))

    def decide(self, scores: torch.Tensor, lengths: Any = None) -> Decisions:
        """scores [2, n, d] → the unit vectors of queries, [n, d]; `scores` holds those of documents."""
        return Decisions(scores[0].numpy(), scores[1].numpy())


class MatchSpread:
    """How the two sides of matching pairs differ, features [2, n, d].

    means: of each side, [2, d]; variances and axes: the eigendecomposition of the covariance S of the
    difference of the two sides, each less its mean.
    """

    def __init__(self, features: torch.Tensor) -> None:
        self.means = features.mean(1)
        centred = features - self.means[:, None]
        difference = centred[0] - centred[1]
        variances, self.axes = torch.linalg.eigh(difference.T @ difference / len(difference))
        self.variances = variances.clamp_min(0)


def retrieval(decisions: Decisions, queries: Sequence[str], documents: Sequence[str]) -> tuple[list, Any]:
    """(truth, ranks) as the metrics take them: every distinct query searches all distinct documents.

    A document is relevant to a query if the two stand in one row.
    """
    first_of_query, query_of = _distinct(queries)
    first_of_document, document_of = _distinct(documents)
    relevant: list[list[int]] = [[] for _ in first_of_query]
    for query, document in zip(query_of, document_of, strict=True):
        relevant[query].append(document)
    truth = [np.unique(each) for each in relevant]
    left, right = decisions.predicted[first_of_query], decisions.scores[first_of_document]
    return truth, ranks_of_relevant(truth, lambda start, stop: left[start:stop] @ right.T)


def _distinct(texts: Sequence[str]) -> tuple[list[int], list[int]]:
    """Where each distinct text stands first, and for every text its number among the distinct ones."""
    number: dict[str, int] = {}
    numbers = [number.setdefault(text, len(number)) for text in texts]
    seen: dict[int, int] = {}
    for at, each in enumerate(numbers):
        seen.setdefault(each, at)
    return list(seen.values()), numbers
