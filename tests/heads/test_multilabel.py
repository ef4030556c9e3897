from __future__ import annotations

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from taskheads.heads.multilabel import _GRID, MultilabelHead, _counts, _exact
from tests.heads.planted import MEAN, generator, make_task, normal

LABELS = ["a", "b", "c", "d"]


def head(metric: str = "micro_f1") -> MultilabelHead:
    made = MultilabelHead(make_task("multilabel", LABELS, metric=metric), [MEAN], 4)
    made.put(torch.eye(4), torch.zeros(4))
    return made


def planted(n: int = 600, rare: float = -2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log odds, the last label's rare; and label sets drawn from them."""
    true = 2 * normal(n, 4) + torch.tensor([0.0, -1.0, 1.0, rare])
    return true, torch.rand(n, 4, generator=generator(1)) < true.sigmoid()


def value(made: MultilabelHead, scores: torch.Tensor, targets: torch.Tensor, thresholds=None) -> float:
    probability = scores.sigmoid().numpy()
    at = made.thresholds.numpy() if thresholds is None else thresholds
    return made.metric.compute(targets.numpy(), probability >= at, probability)


@torch.no_grad()
@pytest.mark.parametrize("metric", ["micro_f1", "macro_f1", "exact_match"])
def test_thresholds_beat_any_common_one(metric: str) -> None:
    scores, targets = planted()
    made = head(metric)
    tuned = made.tune(made(scores), targets)
    best = max(value(made, tuned, targets, at) for at in _GRID)
    assert value(made, tuned, targets) >= best
    assert value(made, tuned, targets) > value(made, tuned, targets, 0.9)


def test_counts_at_all_thresholds_are_those_of_a_loop() -> None:
    scores, targets = planted(200)
    probability, truth = scores.sigmoid().numpy(), targets.numpy()
    probability[:5] = _GRID[[0, 3, 7, 20, -1]][:, None]  # on a threshold is above it
    hits, chosen, true = _counts(probability, truth)
    exact = _exact(probability, truth)
    for at, threshold in enumerate(_GRID):
        given = probability >= threshold
        assert hits[:, at].tolist() == (given & truth).sum(0).tolist()
        assert chosen[:, at].tolist() == given.sum(0).tolist()
        assert exact[at] == (given == truth).all(1).sum()
    assert true.tolist() == truth.sum(0).tolist()


@torch.no_grad()
def test_the_tuned_scores_are_the_tuned_heads() -> None:
    scores, targets = planted()
    made = head()
    torch.testing.assert_close(made.tune(made(scores), targets), made(scores))


@torch.no_grad()
def test_a_label_with_few_positives_shares_the_common_threshold() -> None:
    scores, targets = planted(rare=-9.0)
    made = head("macro_f1")
    made.tune(made(scores), targets)
    assert len(made.thresholds.unique()) > 1
    few = targets & (targets.cumsum(0) < 10)
    made.tune(made(scores), few)
    assert len(made.thresholds.unique()) == 1


@torch.no_grad()
def test_thresholds_of_labels_that_do_worse_are_left_for_the_common_one() -> None:
    """Each label's own best F1 makes its pooled decisions no better, and whole rows worse."""
    scores, targets = planted(400)
    made = head("exact_match")
    tuned = made.tune(made(scores), targets)
    common = max(value(made, tuned, targets, at) for at in made.thresholds.unique().tolist())
    assert value(made, tuned, targets) >= common


@torch.no_grad()
@pytest.mark.parametrize(("factor", "shift"), [(5.0, 2.0), (0.1, -1.0), (1.0, 0.0)])
def test_probabilities_are_made_honest(factor: float, shift: float) -> None:
    scores, targets = planted(5000)
    made = head()
    made.rescale(factor, shift)
    tuned = made.tune(made(scores), targets)
    torch.testing.assert_close(tuned, scores, atol=0.4, rtol=0.1)
    truth = targets.float()
    assert (
        binary_cross_entropy_with_logits(tuned, truth)
        < binary_cross_entropy_with_logits(scores, truth) + 1e-3
    )


@torch.no_grad()
def test_the_order_of_labels_is_kept_even_by_scores_that_are_wrong() -> None:
    scores, targets = planted()
    made = head()
    tuned = made.tune(made(-scores), targets)
    assert (tuned.argsort(1) == (-scores).argsort(1)).float().mean() > 0.99


@torch.no_grad()
def test_no_dev_rows_leave_a_half() -> None:
    made = head()
    made.tune(torch.empty(0, 4), torch.empty(0, 4, dtype=torch.bool))
    assert made.thresholds.tolist() == [0.5] * 4


def test_answers_are_sorted_by_probability_and_may_be_none() -> None:
    made = head()
    decisions = made.decide(torch.tensor([[1.0, -1.0, 3.0, -2.0], [-1.0, -1.0, -1.0, -1.0]]))
    answers = made.answers(decisions, scores=True)
    assert [answer["labels"] for answer in answers] == [["c", "a"], []]
    assert list(answers[0]["scores"]) == ["c", "a", "b", "d"]


def test_each_label_is_fitted_as_if_it_were_alone() -> None:
    scores, targets = planted(50)
    made = head()
    alone = [binary_cross_entropy_with_logits(scores[:, i], targets[:, i].float()) for i in range(4)]
    torch.testing.assert_close(made.objective(scores, targets), torch.stack(alone).sum())
