"""Heads that training begins with: solved, and less sure of themselves where a backbone is to learn."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from taskheads.heads import LinearHead
from taskheads.tasks.task import TaskData
from taskheads.training.joint.starting import skill, starting_heads, unsure
from taskheads.training.trial import encoded_targets
from tests.heads.planted import make_task, normal
from tests.training.planted import Table, split_data

WIDTH, ROWS = 6, 300
TEXTS = [f"text {i}" for i in range(ROWS)]
WORDS = [[f"word {i}", f"word {i + ROWS}"] for i in range(ROWS)]


def vector(site: str, text: str) -> torch.Tensor:
    return normal(WIDTH, seed=int(text.split()[-1]))


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    return Table(monkeypatch, WIDTH, vector)


def labels(wrong: float) -> list[str]:
    """What the first feature of each text says, but for so many of them, drawn at random, the other one."""
    flipped = (np.random.default_rng(0).random(ROWS) < wrong).tolist()
    said = [bool(vector("", text)[0] > 0) for text in TEXTS]
    return ["ab"[one != other] for one, other in zip(said, flipped, strict=True)]


def tasks() -> dict[str, TaskData]:
    told = labels(0.1)
    levels = [1 + 2 * (label == "b") + i % 2 for i, label in enumerate(told)]
    made = [
        split_data(make_task("classify", "ab"), TEXTS, targets=told),
        split_data(make_task("multilabel", "ab"), TEXTS, targets=[[each] for each in told]),
        split_data(make_task("ordinal", (1, 2, 3, 4)), TEXTS, targets=levels),
        split_data(make_task("tag", "xy"), WORDS, targets=[["xy"[each == "b"], "x"] for each in told]),
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
        was = solved[name]
        assert isinstance(was, LinearHead)
        mean = before.mean(0)
        sure = 0.3 * math.sqrt(skill(was, data[name], features, mean))
        assert 0.01 < sure < 0.29
        torch.testing.assert_close(after, mean + sure * (before - mean), rtol=1e-4, atol=1e-5)


def test_skill_is_the_share_of_the_loss_on_dev_that_a_head_saves(table: Table) -> None:
    """Beside scikit-learn's log loss of both sides."""
    data = tasks()["classify"]
    features = table.features(data)
    head = starting_heads(table.backbone, {"classify": data}, features)["classify"]
    assert isinstance(head, LinearHead)
    gathered, _ = features.of(head, data.splits["dev"])
    constant = torch.tensor([0.4, -0.2])
    with torch.no_grad():
        scores = head(gathered)
    truth = encoded_targets(data.task, data.splits["dev"]).numpy()
    told, guessed = (
        log_loss(truth, each.double().softmax(-1).numpy()) for each in (scores, constant.expand_as(scores))
    )
    assert skill(head, data, features, constant) == pytest.approx(1 - told / guessed, rel=1e-5)


def test_a_head_is_the_less_sure_the_less_the_features_tell(table: Table) -> None:
    """Labels that features tell wholly, nine times of ten, seven, and not at all: the last head knows its
    train rows only, and begins with the same scores for every row."""
    spreads = []
    for wrong in (0.0, 0.1, 0.3, 0.5):
        data = {"classify": split_data(make_task("classify", "ab"), TEXTS, targets=labels(wrong))}
        features = table.features(*data.values())
        solved = starting_heads(table.backbone, data, features)
        gathered, _ = features.of(solved["classify"], data["classify"].splits["train"])
        with torch.no_grad():
            before = solved["classify"](gathered).std(0)
            after = unsure(solved, data, features)["classify"](gathered).std(0)
        spreads.append(float((after / before).mean()))
    assert spreads[0] > 0.25
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] == pytest.approx(0, abs=1e-3)
