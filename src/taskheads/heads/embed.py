"""Search: queries and documents as unit vectors whose inner product says how well they match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from taskheads.backbone.reads import Read
from taskheads.heads.head import Decisions, Head, Request
from taskheads.methods import method
from taskheads.tasks.metrics import ranks_of_relevant
from taskheads.tasks.task import Task

# How sharply `loss` tells cosines apart, and a variance that is as good as none.
_SHARPNESS = 20.0
_TINY = 1e-12


class EmbedHead(Head):
    """Both texts less their side's mean, through one linear map, then scaled to length one.

    The map undoes what varies between a query and its own document (`MatchSpread`).
    """

    kind = "embed"
    additive = False  # each query is told from all documents of the batch

    def __init__(self, task: Task, reads: Sequence[Read], width: int) -> None:
        super().__init__(task, reads, width)
        size = len(self.reads) * width
        self.weight = nn.Parameter(torch.eye(size))
        self.bias = nn.Parameter(torch.zeros(2, size))

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

    def loss(self, scores: torch.Tensor, targets: Any = None, lengths: Any = None) -> torch.Tensor:
        """The softmax over all documents of the batch, of which a query's own is right (Henderson et al.
        2017, arXiv:1705.00652, 4.4: "multiple negatives"). There are no targets: row i goes with row i."""
        if not scores.shape[1]:
            return scores.sum()
        own = torch.arange(scores.shape[1], device=scores.device)
        return cross_entropy(_SHARPNESS * scores[0] @ scores[1].T, own)

    def put(self, spread: MatchSpread, shrinkage: float) -> None:
        """Take the map of these pairs; `shrinkage` in (0, 1] is how much of S is replaced by its mean
        variance, so that 1 is the plain cosine."""
        with torch.no_grad():
            self.weight.copy_(spread.map(shrinkage))
            self.bias.copy_(-spread.means if shrinkage < 1 else torch.zeros_like(self.bias))

    def decide(self, scores: torch.Tensor, lengths: Any = None) -> Decisions:
        """scores [2, n, d] → the unit vectors of queries, [n, d]; `scores` holds those of documents."""
        return Decisions(scores[0].detach().numpy(), scores[1].detach().numpy())


@method(
    "within_class_covariance_normalisation",
    family="heads",
    paper="Hatch, Kajarekar and Stolcke 2006, Within-class covariance normalization, Interspeech",
    applies_to=("embed",),
)
class MatchSpread:
    """Within-class covariance normalisation of an embedding: the covariance S [d, d] of query less document
    over matching pairs [2, n, d] is shrunk towards a multiple of the identity and undone by its inverse root,
    so that directions in which a text differs from its own match stop counting.

    means: of each side, [2, d], which are taken out first; variances [d] and axes [d, d]: the
    eigendecomposition of S. `map(shrinkage)` gives the inverse root.
    """

    def __init__(self, features: torch.Tensor) -> None:
        self.means = features.mean(1)
        centred = features - self.means[:, None]
        difference = centred[0] - centred[1]
        variances, self.axes = torch.linalg.eigh(difference.T @ difference / len(difference))
        self.variances = variances.clamp_min(0)

    def map(self, shrinkage: float) -> torch.Tensor:
        """((1 - shrinkage) S + shrinkage m I)^(-1/2) [d, d], m the mean variance, in units of m^(-1/2)."""
        mean = self.variances.mean().clamp_min(_TINY)  # zero where all queries equal their documents
        variances = (1 - shrinkage) * self.variances + shrinkage * mean
        return (self.axes * (mean / variances).sqrt()) @ self.axes.T


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
