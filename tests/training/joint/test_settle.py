"""Which head a tuned backbone gets: the trained one, or one solved for anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from taskheads.heads import EmbedHead, Head, LinearHead, head_for
from taskheads.model.evaluation import decided, metric_value, truth_of
from taskheads.model.features import FrozenFeatures
from taskheads.tasks.task import TaskData
from taskheads.training.candidates import single_candidates
from taskheads.training.frozen import fit_head
from taskheads.training.joint.settle import settled
from taskheads.training.trial import Fitted, encoded_targets
from tests.heads.planted import make_task, normal
from tests.training.planted import Table, split_data

WIDTH, TRAIN, DEV = 30, 300, 80


def vector(site: str, text: str) -> torch.Tensor:
    return normal(WIDTH, seed=int(text.split()[-1]))


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    return Table(monkeypatch, WIDTH, vector)


def drawn(seed: int) -> TaskData:
    """Labels drawn at the odds that the first feature says."""
    texts = [f"text {1000 * seed + i}" for i in range(TRAIN + DEV)]
    odds = torch.stack([2 * vector("", text)[0] for text in texts]).sigmoid().numpy()
    labels = np.where(np.random.default_rng(seed).random(len(texts)) < odds, "b", "a").tolist()
    return split_data(make_task("classify", "ab"), texts, targets=labels, dev=DEV, test=0)


def head_saying(table: Table, data: TaskData, weight: float) -> LinearHead:
    """The head whose log odds are `weight` times the first feature; in `drawn` they are 2 times it."""
    kind = head_for(data.task)
    head = kind(data.task, single_candidates(table.backbone, kind, data.task)[0], WIDTH)
    assert isinstance(head, LinearHead)
    with torch.no_grad():
        head.weight[0] = torch.tensor([-weight / 2, weight / 2])
    return head


def solved(table: Table, data: TaskData, features: FrozenFeatures) -> Fitted:
    return fit_head(
        table.backbone, data, features, single_candidates(table.backbone, head_for(data.task), data.task)
    )


def loss_and_score(head: Head, data: TaskData, features: FrozenFeatures) -> tuple[float, float]:
    """On dev: scikit-learn's log loss, and the task's metric."""
    dev = data.splits["dev"]
    told = decided(head, dev, features)[1]
    chances = told.scores.astype(np.float64)
    lost = log_loss(encoded_targets(data.task, dev).numpy(), chances / chances.sum(1, keepdims=True))
    return lost, metric_value(head, truth_of(head, dev), told)


def test_the_loss_finds_the_truth_where_the_score_goes_by_chance(table: Table) -> None:
    by_loss = by_score = 0
    for seed in range(20):
        data = drawn(seed)
        features = table.features(data)
        truth = head_saying(table, data, 2.0)
        other = solved(table, data, features).head
        kept = settled(table.backbone, data, truth, features)
        lost, _ = loss_and_score(kept.head, data, features)
        other_lost, other_scored = loss_and_score(other, data, features)
        assert lost <= other_lost + 1e-6
        by_loss += kept.solver == "trained"
        by_score += loss_and_score(truth, data, features)[1] >= other_scored
    assert by_loss > by_score


@pytest.mark.parametrize("weight", [0.0, -2.0])
def test_a_trained_head_that_says_little_or_the_contrary_gives_way(table: Table, weight: float) -> None:
    data = drawn(0)
    features = table.features(data)
    found = settled(table.backbone, data, head_saying(table, data, weight), features)
    expected = solved(table, data, features)
    assert (found.solver, found.penalty) == (expected.solver, expected.penalty)
    assert found.tried[0]["solver"] == "trained"
    torch.testing.assert_close(found.head.state_dict(), expected.head.state_dict())


def test_a_head_whose_loss_is_of_a_batch_is_chosen_by_its_score(table: Table) -> None:
    texts = [f"text {i}" for i in range(TRAIN + DEV)]
    data = split_data(make_task("embed"), texts, texts[::-1], dev=DEV, test=0)
    features = table.features(data)
    trained = EmbedHead(data.task, single_candidates(table.backbone, EmbedHead, data.task)[0], WIDTH)
    found = settled(table.backbone, data, trained, features)
    assert found.utility == max(each["dev"] for each in found.tried)
