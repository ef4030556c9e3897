from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from taskheads.heads import head_for
from taskheads.heads.classify import ClassifyHead, temperature
from tests.heads.planted import MEAN, generator, make_task, normal

TASK = make_task("classify", ["a", "b", "c"])


def planted(sharpness: float, n: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores that are `sharpness` times the true log odds, and targets drawn from the truth."""
    true = 1.5 * normal(n, 3)
    targets = torch.multinomial(true.softmax(1), 1, generator=generator(1))[:, 0]
    return sharpness * true, targets


@pytest.mark.method("temperature_scaling")
@pytest.mark.parametrize("sharpness", [0.2, 1.0, 5.0])
def test_the_temperature_undoes_a_planted_one(sharpness: float) -> None:
    scores, targets = planted(sharpness)
    assert temperature(scores, targets) == pytest.approx(1 / sharpness, rel=0.1)


@pytest.mark.method("temperature_scaling")
def test_the_temperature_is_the_likeliest() -> None:
    scores, targets = planted(3.0, 300)
    factor = temperature(scores, targets)
    at_best = cross_entropy(factor * scores, targets)
    for other in (0.9, 0.99, 1.01, 1.1):
        assert cross_entropy(other * factor * scores, targets) >= at_best


def test_no_rows_have_no_temperature() -> None:
    assert temperature(torch.empty(0, 3), torch.empty(0, dtype=torch.int64)) == 1.0


def test_calibrating_makes_dev_likelier_and_keeps_every_answer() -> None:
    scores, targets = planted(6.0, 500)
    head = ClassifyHead(TASK, [MEAN], 3)
    head.put(torch.eye(3), torch.tensor([0.1, 0.0, -0.1]))
    with torch.no_grad():
        before = head(scores)
        head.calibrate(before, targets)
        after = head(scores)
    assert cross_entropy(after, targets) < cross_entropy(before, targets) - 0.1
    assert head.decide(after).predicted.tolist() == head.decide(before).predicted.tolist()


def test_answers() -> None:
    head = ClassifyHead(TASK, [MEAN], 3)
    made = head.decide(torch.tensor([[0.0, 2.0, 1.0], [9.0, 0.0, 0.0]]))
    np.testing.assert_allclose(made.scores.sum(1), 1, rtol=1e-6)
    answers = head.answers(made, scores=True)
    assert [answer["label"] for answer in answers] == ["b", "a"]
    assert list(answers[0]["scores"]) == ["b", "c", "a"]
    assert answers[0]["score"] == answers[0]["scores"]["b"]
    assert head.answers(made)[0].keys() == {"label", "score"}


def test_every_kind_of_task_has_its_head() -> None:
    kinds = [("classify", "ab"), ("multilabel", "ab"), ("regress", ""), ("ordinal", (1, 2)), ("tag", "ab")]
    for kind, labels in kinds:
        assert head_for(make_task(kind, labels)).kind == kind
    assert head_for(make_task("pair", "ab")).kind == "pair"
    assert head_for(make_task("pair")).kind == "similarity"
    assert head_for(make_task("embed")).kind == "embed"
