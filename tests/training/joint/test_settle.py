"""From a tuned backbone to its heads: the better of the trained and the solved one, judged on rows that did
not choose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from taskheads.heads import Head, head_for
from taskheads.model.evaluation import decided, metric_value, truth_of
from taskheads.tasks.task import TaskData
from taskheads.training.joint import settle
from taskheads.training.trial import Fitted
from tests.heads.planted import MEAN, make_task, normal
from tests.training.planted import Table, split_data

WIDTH = 8


def vector(site: str, text: str) -> torch.Tensor:
    return normal(WIDTH, seed=int(text.split()[-1]))


def planted(monkeypatch: pytest.MonkeyPatch, first: int, dev: int) -> tuple[Table, TaskData, Any]:
    """A task whose label is told by the first feature in seven rows of ten; `first` draws both."""
    table, draw = Table(monkeypatch, WIDTH, vector), np.random.default_rng(first)
    texts = [f"text {i}" for i in range(first, first + dev + 100)]
    labels = ["ab"[bool(vector("", text)[0] > 0) != bool(draw.random() < 0.3)] for text in texts]
    data = split_data(make_task("classify", "ab"), texts, targets=labels, dev=dev, test=10)
    return table, data, table.features(data)


def looking(data: TaskData, direction: torch.Tensor) -> Head:
    head = head_for(data.task)(data.task, [MEAN], WIDTH)
    head.put(torch.stack([-direction, direction], 1), torch.zeros(2))
    return head


def away(angle: float, seed: int) -> torch.Tensor:
    """A direction at this angle to the first feature, on a random side of it."""
    side = normal(WIDTH, seed=seed)
    side[0] = 0
    towards = torch.zeros(WIDTH)
    towards[0] = np.cos(angle)
    return towards + np.sin(angle) * side / side.norm()


def on_dev(head: Head, data: TaskData, features: Any) -> float:
    dev = data.splits["dev"]
    return metric_value(head, truth_of(head, dev), decided(head, dev, features)[1])


def chosen_of_many(angle: float, count: int) -> Any:
    """In the place of solving: of heads that are equally good in truth the one that is best on dev."""

    def choose(backbone: Any, data: TaskData, features: Any, reads: Any) -> Fitted:
        heads = [looking(data, away(angle, seed)) for seed in range(count)]
        best = max(heads, key=lambda head: on_dev(head, data, features))
        return Fitted(best, "planted", 0.0, on_dev(best, data, features))

    return choose


def test_the_best_of_many_on_dev_does_not_win_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trained head is better in truth, the best of two hundred looks better on most samples of dev."""
    monkeypatch.setattr(settle, "fit_head", chosen_of_many(0.8, 200))
    by_dev, taken = [], []
    for first in range(0, 8000, 1000):
        table, data, features = planted(monkeypatch, first, dev=80)
        trained = looking(data, away(0.3, 7))
        found = settle.settled(table.backbone, data, trained, features)
        solved = settle.fit_head(table.backbone, data, features, [])
        by_dev.append(solved.dev > on_dev(trained, data, features))
        taken.append(found.solver == "planted")
    assert sum(by_dev) >= 5
    assert sum(taken) <= 2


@pytest.mark.parametrize("dev", [30, 80])
def test_a_solved_head_that_is_better_in_truth_is_taken(monkeypatch: pytest.MonkeyPatch, dev: int) -> None:
    """With too few rows for two halves, by all of them."""
    monkeypatch.setattr(settle, "fit_head", chosen_of_many(0.1, 5))
    table, data, features = planted(monkeypatch, 0, dev)
    found = settle.settled(table.backbone, data, looking(data, away(1.5, 3)), features)
    assert found.solver == "planted"
    assert [each["solver"] for each in found.tried] == ["trained"]
    assert found.dev == on_dev(found.head, data, features)
