"""Metrics of search: where do a query's relevant documents stand when all documents are sorted by similarity?

Everything is a function of the ranks of the relevant documents, so the similarities are read once, in blocks,
and never kept: `ranks_of_relevant`. A query is a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taskheads.tasks.metrics.metric import Collection, Sums, mean, ratio

METRICS = Collection()

Similarities = np.ndarray | Callable[[int, int], np.ndarray] | Iterable[np.ndarray]

_QUERIES_PER_BLOCK = 256
_COMPARISONS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Ranks:
    """`rank[i]` (1 is best) is of a document relevant to query `query[i]`; a query may have none."""

    rank: np.ndarray
    query: np.ndarray
    queries: int

    def __len__(self) -> int:
        return self.queries

    def sum_by_query(self, of_document: np.ndarray) -> np.ndarray:
        return np.bincount(self.query, weights=of_document, minlength=self.queries)

    @property
    def relevant(self) -> np.ndarray:
        """[queries]: how many documents are relevant."""
        return np.bincount(self.query, minlength=self.queries)


def ranks_of_relevant(relevant: Sequence[Any], scores: Similarities) -> Ranks:
    """Rank every query's relevant documents among all documents.

    `relevant[q]` are the indices of the documents relevant to query q (twice the same counts once). `scores`
    are similarities: an array [queries, documents], or a function (start, stop) -> [stop - start, documents],
    or an iterable of such blocks in order; the last two keep only a block in memory.

    Ties: documents of equal score stand in random order, and the j-th best relevant one of t among m of
    them has its expected rank, j (m + 1) / (t + 1) after those above. So a model that gives every document
    the same score ranks the one that matters in the middle, not first. The measures are taken at these
    ranks, which may be fractions (McSherry and Najork 2008, ECIR, average the measure itself over the
    orders instead).
    """
    query, document = _pairs(relevant)
    above, level, score = (np.empty(len(query)) for _ in range(3))
    start = 0
    for block in _blocks(scores, len(relevant)):
        stop = start + len(block)
        if stop > len(relevant):
            raise ValueError(f"scores has more than the {len(relevant)} queries of the truth")
        if np.isnan(block).any():
            raise ValueError(f"scores has NaN for query {start + int(np.isnan(block).any(1).argmax())}")
        first, last = np.searchsorted(query, [start, stop])
        step = max(1, _COMPARISONS_AT_ONCE // max(1, block.shape[1]))
        for low in range(first, last, step):
            part = slice(low, min(low + step, last))
            if document[part].max() >= block.shape[1]:
                at = low + int(document[part].argmax())
                raise ValueError(
                    f"query {query[at]} has relevant document {document[at]}, but there are {block.shape[1]}"
                )
            rows = block[query[part] - start]
            own = np.take_along_axis(rows, document[part, None], axis=1)
            score[part] = own[:, 0]
            above[part] = np.count_nonzero(rows > own, axis=1)
            level[part] = np.count_nonzero(rows == own, axis=1)
        start = stop
    if start != len(relevant):
        raise ValueError(f"scores ends after {start} of {len(relevant)} queries")
    return Ranks(above + _place_in_tie(query, score) * (level + 1), query, len(relevant))


def _pairs(relevant: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """(query, document) of every relevant document, by query, each pair once."""
    documents = [np.asarray(of_query, dtype=np.int64).reshape(-1) for of_query in relevant]
    document = np.concatenate(documents)
    query = np.repeat(np.arange(len(documents)), [len(of_query) for of_query in documents])
    if not len(document):
        raise ValueError("no query has a relevant document: there is nothing to score")
    if document.min() < 0:
        raise ValueError(f"query {query[document.argmin()]} has a negative document index")
    width = int(document.max()) + 1
    query, document = np.divmod(np.unique(query * width + document), width)
    return query, document


def _place_in_tie(query: np.ndarray, score: np.ndarray) -> np.ndarray:
    """j / (t + 1) for the j-th of t relevant documents of a query that have one score."""
    order = np.lexsort((score, query))
    query, score = query[order], score[order]
    same = (query[1:] == query[:-1]) & (score[1:] == score[:-1])
    group = np.concatenate([[0], np.cumsum(~same)])
    size = np.bincount(group)
    place = np.empty(len(order))
    place[order] = (np.arange(len(order)) - (np.cumsum(size) - size)[group] + 1) / (size[group] + 1)
    return place


def _blocks(scores: Similarities, queries: int) -> Iterator[np.ndarray]:
    if isinstance(scores, np.ndarray):
        for start in range(0, len(scores), _QUERIES_PER_BLOCK):
            yield scores[start : start + _QUERIES_PER_BLOCK]
    elif callable(scores):
        for start in range(0, queries, _QUERIES_PER_BLOCK):
            yield np.asarray(scores(start, min(start + _QUERIES_PER_BLOCK, queries)))
    else:
        yield from map(np.asarray, scores)


def _ranks(truth: Any, scores: Any) -> Ranks:
    if scores is None:
        raise ValueError("search is scored by similarities (or their `Ranks`): it needs `scores`")
    if not isinstance(scores, Ranks):
        return ranks_of_relevant(truth, scores)
    if len(scores) != len(truth):
        raise ValueError(f"the ranks are of {len(scores)} queries, the truth has {len(truth)}")
    return scores


def _mean_over_queries(of_query: np.ndarray, ranks: Ranks) -> Sums:
    """The mean over the queries with a relevant document; trec_eval leaves the others out, too."""
    return mean(of_query, (ranks.relevant > 0).astype(np.float64))


@METRICS.define("recall@1", "embed", "share of the relevant documents that rank first", k=1)
@METRICS.define("recall@5", "embed", "share of the relevant documents among the first 5", k=5)
@METRICS.define("recall@10", "embed", "share of the relevant documents among the first 10", k=10)
def recall_at(truth: Any, predicted: Any, scores: Any = None, *, k: int) -> Sums:
    """Relevant documents of rank <= k over all relevant ones, a query at a time (trec_eval's recall_k)."""
    ranks = _ranks(truth, scores)
    return _mean_over_queries(ratio(ranks.sum_by_query(ranks.rank <= k), ranks.relevant), ranks)


@METRICS.define("mrr@10", "embed", "one over the rank of the first relevant document, 0 after 10", k=10)
def mrr_at(truth: Any, predicted: Any, scores: Any = None, *, k: int) -> Sums:
    """Mean reciprocal rank (Voorhees 1999, "The TREC-8 question answering track report"), cut off at k."""
    ranks = _ranks(truth, scores)
    best = np.full(len(ranks), np.inf)
    np.minimum.at(best, ranks.query, ranks.rank)
    return _mean_over_queries(np.where(best <= k, 1 / best, 0.0), ranks)


@METRICS.define("ndcg@10", "embed", "discounted gain of the first 10 over the best possible", k=10)
def ndcg_at(truth: Any, predicted: Any, scores: Any = None, *, k: int) -> Sums:
    """Normalised discounted cumulative gain (Järvelin and Kekäläinen 2002), discount 1 / log2(1 + rank).

    A document is relevant or not (gain 1 or 0); the best possible has min(relevant, k) of them in front.
    """
    ranks = _ranks(truth, scores)
    gained = ranks.sum_by_query(np.where(ranks.rank <= k, 1 / np.log2(1 + ranks.rank), 0.0))
    best = np.concatenate([[0.0], np.cumsum(1 / np.log2(1 + np.arange(1, k + 1)))])
    return _mean_over_queries(ratio(gained, best[np.minimum(ranks.relevant, k)]), ranks)
