"""Heads that training begins with: solved, and less sure of themselves where a backbone is to learn."""

from __future__ import annotations

import copy

import pytest
import torch

from taskheads.heads import LinearHead
from taskheads.tasks.task import TaskData
from taskheads.training.joint.starting import starting_heads, unsure
from tests.heads.planted import make_task, normal
from tests.training.planted import Table, split_data

WIDTH, ROWS = 6, 300
TEXTS = [f"text {i}" for i in range(ROWS)]
WORDS = [[f"word {i}", f"word {i + 1}"] for i in range(ROWS)]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    return Table(monkeypatch, WIDTH, lambda site, text: normal(WIDTH, seed=sum(map(ord, site + text)) + 1))


def tasks() -> dict[str, TaskData]:
    labels = list("ab" * (ROWS // 2))
    made = [
        split_data(make_task("classify", "ab"), TEXTS, targets=labels),
        split_data(make_task("multilabel", "ab"), TEXTS, targets=[[each] for each in labels]),
        split_data(make_task("ordinal", (1, 2, 3)), TEXTS, targets=[1, 2, 3] * (ROWS // 3)),
        split_data(make_task("tag", "xy"), WORDS, targets=[["x", "y"]] * ROWS),
        split_data(make_task("regress"), TEXTS, targets=[float(len(text)) for text in TEXTS]),
        split_data(make_task("embed"), TEXTS, TEXTS[::-1]),
    ]
    return {data.task.kind: data for data in made}


def test_probabilities_are_nearer_to_each_other_and_all_else_is_as_solved(table: Table) -> None:
    data = tasks()
    features = table.features(*data.values())
    solved = starting_heads(table.backbone, data, features)
    less = unsure(copy.deepcopy(solved), data, features)
    assert list(less) == list(data)
    for name, head in less.items():
        assert head.training
        gathered, _ = features.of(head, data[name].splits["train"])
        with torch.no_grad():
            before, after = solved[name](gathered), head(gathered)
        if name in ("regress", "embed"):
            torch.testing.assert_close(after, before, rtol=0, atol=0)
            continue
        assert isinstance(head, LinearHead)
        mean = before.mean(0)
        torch.testing.assert_close(after, mean + 0.3 * (before - mean), rtol=1e-4, atol=1e-5)
        assert before.std() > 0
