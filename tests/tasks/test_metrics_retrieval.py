"""Search: ranks of the relevant documents, and what is read off them, against definitions written out."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from taskheads.tasks.metrics import METRICS, Ranks, interval, ranks_of_relevant


def search(rng, queries=30, documents=25, decimals=8):
    scores = rng.normal(size=(queries, documents)).round(decimals)
    relevant = [rng.choice(documents, size=rng.integers(1, 14), replace=False) for _ in range(queries)]
    return relevant, scores


def order_of(scores):
    return list(np.argsort(-scores, kind="stable"))


def recall(order, relevant, k):
    return len(set(order[:k]) & set(relevant)) / len(relevant)


def reciprocal(order, relevant, k):
    return next((1 / (i + 1) for i, d in enumerate(order[:k]) if d in relevant), 0.0)


def ndcg(order, relevant, k):
    gained = sum(1 / np.log2(i + 2) for i, d in enumerate(order[:k]) if d in relevant)
    return gained / sum(1 / np.log2(i + 2) for i in range(min(k, len(relevant))))


BY_HAND = {
    "recall@1": (recall, 1),
    "recall@5": (recall, 5),
    "recall@10": (recall, 10),
    "mrr@10": (reciprocal, 10),
    "ndcg@10": (ndcg, 10),
}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("documents", [14, 25, 300])
def test_metrics_equal_their_definitions(name, documents):
    relevant, scores = search(np.random.default_rng(documents), documents=documents)
    define, k = BY_HAND[name]
    expected = np.mean([define(order_of(s), set(r), k) for s, r in zip(scores, relevant, strict=True)])
    assert METRICS[name].compute(relevant, None, scores) == pytest.approx(expected)


def test_ndcg_equals_scikit_learn():
    relevant, scores = search(np.random.default_rng(0))
    gains = np.zeros(scores.shape)
    for query, documents in enumerate(relevant):
        gains[query, documents] = 1
    expected = ndcg_score(gains, scores, k=10)
    assert METRICS["ndcg@10"].compute(relevant, None, scores) == pytest.approx(expected)


def test_a_tie_gives_the_expected_rank_in_random_order():
    scores = np.array([3, 2, 2, 2, 2, 1, 1, 1])
    for relevant in ([1], [1, 2], [1, 2, 3, 4], [0, 1, 6], [5, 7]):
        ranks = []
        for tied in itertools.permutations(range(1, 5)):
            for last in itertools.permutations(range(5, 8)):
                order = [0, *tied, *last]
                ranks.append(sorted(order.index(d) + 1 for d in relevant))
        found = ranks_of_relevant([relevant], scores[None, :])
        assert np.sort(found.rank) == pytest.approx(np.mean(ranks, axis=0))


def test_one_score_for_all_documents_earns_nothing():
    relevant = [[0], [1, 2]]
    ranks = ranks_of_relevant(relevant, np.zeros((2, 100)))
    assert ranks.rank[0] == 50.5
    for name in BY_HAND:
        assert METRICS[name].compute(relevant, None, ranks) == 0.0


def test_documents_ruled_out_by_minus_infinity_rank_last():
    ranks = ranks_of_relevant([[0, 1]], np.array([[-np.inf, -np.inf, 1.0, 2.0]]))
    assert ranks.rank.tolist() == [3.0, 4.0]


def test_all_relevant_on_top_is_perfect_even_if_they_tie():
    scores = np.array([[1.0, 1.0, 1.0, 0.0, 0.0]])
    assert METRICS["ndcg@10"].compute([[0, 1, 2]], None, scores) == pytest.approx(1.0)
    assert METRICS["mrr@10"].compute([[0, 1, 2]], None, scores) == 1.0


@pytest.mark.parametrize("decimals", [0, 8])
def test_blocks_and_functions_rank_as_one_array_does(decimals, monkeypatch):
    relevant, scores = search(np.random.default_rng(1), queries=700, decimals=decimals)
    whole = ranks_of_relevant(relevant, scores)
    asked = []

    def block(start, stop):
        asked.append(stop - start)
        return scores[start:stop]

    monkeypatch.setattr("taskheads.tasks.metrics.retrieval._COMPARISONS_AT_ONCE", 100)
    for source in (scores, block, (scores[i : i + 33] for i in range(0, 700, 33))):
        ranks = ranks_of_relevant(relevant, source)
        assert np.array_equal(ranks.rank, whole.rank)
        assert np.array_equal(ranks.query, whole.query)
    assert sum(asked) == 700
    assert max(asked) < 700


def test_ranks_may_be_given_in_place_of_scores():
    relevant, scores = search(np.random.default_rng(2))
    ranks = ranks_of_relevant(relevant, scores)
    assert isinstance(ranks, Ranks)
    for name in BY_HAND:
        metric = METRICS[name]
        assert metric.compute(relevant, None, ranks) == metric.compute(relevant, None, scores)
        assert interval(metric, relevant, None, ranks, resamples=5) == interval(
            metric, relevant, None, scores, resamples=5
        )


def test_a_query_without_relevant_documents_is_left_out_and_a_double_counts_once():
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    for name in BY_HAND:
        one = METRICS[name].compute([[0, 1]], None, scores[:1])
        assert METRICS[name].compute([[0, 1, 0], []], None, scores) == one


@pytest.mark.parametrize(
    ("relevant", "scores", "words"),
    [
        ([[0], [5]], np.zeros((2, 3)), "query 1 has relevant document 5, but there are 3"),
        ([[0], [-1]], np.zeros((2, 3)), "query 1 has a negative"),
        ([[], []], np.zeros((2, 3)), "no query has a relevant document"),
        ([[0], [1]], np.zeros((1, 3)), "ends after 1 of 2"),
        ([[0]], np.zeros((2, 3)), "more than the 1 queries"),
        ([[0], [1]], np.array([[0, 1], [np.nan, 1]]), "NaN for query 1"),
        ([[0]], None, "needs `scores`"),
        ([[0], [1]], Ranks(np.ones(1), np.zeros(1, dtype=int), 1), "ranks are of 1 queries"),
    ],
)
def test_what_cannot_be_scored_is_a_sentence(relevant, scores, words):
    with pytest.raises(ValueError, match=words):
        METRICS["ndcg@10"].compute(relevant, None, scores)
