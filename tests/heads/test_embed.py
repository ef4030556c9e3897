from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from taskheads.backbone.reads import Read
from taskheads.heads.embed import EmbedHead, MatchSpread, retrieval
from taskheads.heads.head import Decisions
from taskheads.tasks.metrics import METRICS
from tests.heads.planted import MEAN, make_task, normal

WIDTH, NUISANCE = 24, 8
TASK = make_task("embed")


def embed_head(width: int = WIDTH) -> EmbedHead:
    return EmbedHead(TASK, [MEAN], width)


def planted(n: int = 400, seed: int = 0) -> torch.Tensor:
    """[2, n, d]: what a pair shares lies in some directions, strong noise and each side's style in others."""
    shared = normal(n, WIDTH - NUISANCE, seed=seed)
    sides = []
    for side in (0, 1):
        noise = 4 * normal(n, NUISANCE, seed=seed + 10 + side)
        own = shared + 0.2 * normal(n, WIDTH - NUISANCE, seed=seed + 20 + side)
        sides.append(torch.cat([own, noise], dim=1) + 3 * normal(WIDTH, seed=30 + side))
    turn = torch.linalg.qr(normal(WIDTH, WIDTH, seed=40))[0]
    return torch.stack(sides) @ turn


def recall(head: EmbedHead, features: torch.Tensor) -> float:
    with torch.no_grad():
        made = head.decide(head(features))
    names = [f"{i}" for i in range(features.shape[1])]
    return METRICS["recall@1"].compute(*_as_metric(retrieval(made, names, names)))


def _as_metric(found):
    truth, ranks = found
    return truth, None, ranks


@pytest.mark.method("within_class_covariance_normalisation")
def test_planted_nuisance_is_removed() -> None:
    head, test = embed_head(), planted(300, seed=5)
    before = recall(head, test)
    head.put(MatchSpread(planted()), 0.05)
    assert before < 0.3
    assert recall(head, test) > 0.95


@pytest.mark.method("within_class_covariance_normalisation")
def test_the_map_makes_the_differences_of_pairs_white() -> None:
    features = planted(2000)
    spread = MatchSpread(features)
    head = embed_head()
    head.put(spread, 1e-7)
    moved = ((features + head.bias[:, None]) @ head.weight).detach()
    difference = moved[0] - moved[1]
    covariance = difference.T @ difference / len(difference)
    torch.testing.assert_close(covariance / covariance.diagonal().mean(), torch.eye(WIDTH), atol=1e-2, rtol=0)


@pytest.mark.method("within_class_covariance_normalisation")
def test_full_shrinkage_is_the_plain_cosine() -> None:
    features = planted()
    head = embed_head()
    head.put(MatchSpread(features), 1.0)
    plain = normalize(features[0], dim=-1) @ normalize(features[1], dim=-1).T
    vectors = head(features).detach()
    torch.testing.assert_close(vectors[0] @ vectors[1].T, plain, atol=1e-5, rtol=0)
    assert recall(head, features) == recall(embed_head(), features)


def test_vectors_have_length_one() -> None:
    head = embed_head()
    head.put(MatchSpread(planted()), 0.2)
    torch.testing.assert_close(head(planted(50, seed=3)).norm(dim=-1), torch.ones(2, 50))


@pytest.mark.parametrize("shrinkage", [1.0, 0.1])
@pytest.mark.parametrize("n", [1, 30])
def test_queries_that_equal_their_documents(n: int, shrinkage: float) -> None:
    head = embed_head()
    same = planted(n)[0]
    head.put(MatchSpread(torch.stack([same, same])), shrinkage)
    assert torch.isfinite(head.weight).all()
    assert torch.isfinite(head(torch.stack([same, same]))).all()


def test_fewer_pairs_than_directions() -> None:
    head = embed_head()
    head.put(MatchSpread(planted(5)), 0.05)
    assert torch.isfinite(head(planted(5))).all()


def test_every_read_weighs_the_same() -> None:
    other = Read("layers.0.output", "mean")
    head = EmbedHead(TASK, [MEAN, other], 4)
    side = {MEAN: normal(3, 4), other: 100 * normal(3, 4, seed=1)}
    torch.testing.assert_close(head.gather([side, side]).norm(dim=-1), torch.full((2, 3), 2.0**0.5))
    assert head.gather([side, side]).shape == (2, 3, head.features)


def unit(angles: list[float]) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_equal_queries_and_documents_are_one() -> None:
    """Row i asks q[i] for d[i]: query "a" has two right documents, document "x" stands in two rows."""
    queries, documents = ["a", "b", "a", "c"], ["x", "y", "z", "x"]
    made = Decisions(unit([0.0, 1.0, 0.0, 0.2]), unit([0.1, 1.1, 0.25, 0.1]))
    truth, ranks = retrieval(made, queries, documents)
    assert [each.tolist() for each in truth] == [[0, 2], [1], [0]]
    # a: x, then z; b: y; c: z is nearer than x.
    assert ranks.rank.tolist() == [1, 2, 1, 2]
    assert METRICS["recall@1"].compute(truth, None, ranks) == pytest.approx((0.5 + 1 + 0) / 3)


def test_a_row_that_occurs_twice_changes_nothing() -> None:
    features = planted(20)
    names = [f"{i}" for i in range(20)]
    with torch.no_grad():
        made = embed_head().decide(embed_head()(features))
    doubled = Decisions(np.tile(made.predicted, (2, 1)), np.tile(made.scores, (2, 1)))
    once, twice = retrieval(made, names, names), retrieval(doubled, names * 2, names * 2)
    assert [a.tolist() for a in once[0]] == [a.tolist() for a in twice[0]]
    assert once[1].rank.tolist() == twice[1].rank.tolist()


def test_the_loss_falls_as_pairs_move_together() -> None:
    features = planted(50)
    apart, together = embed_head(), embed_head()
    together.put(MatchSpread(planted()), 0.05)
    assert together.loss(together(features), None) < apart.loss(apart(features), None)
