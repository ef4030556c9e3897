"""What answers on labelled rows tell: counts by hand, calibration of a known model, the planted worst row."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch

from taskheads.heads import Head, head_for
from taskheads.heads.classify import temperature
from taskheads.model.findings import calibration_bins, confusion, findings, reliability, worst_errors
from taskheads.tasks.task import Examples, Task
from tests.heads.planted import MEAN, WORDS, generator, make_examples, make_task, normal


def head_of(task: Task) -> Head:
    reads = [WORDS if task.kind == "tag" else MEAN]
    return head_for(task)(task, reads, 4).eval()


def told(task: Task, scores: torch.Tensor, examples: Examples, **options: Any) -> dict[str, Any]:
    """`findings` of these raw scores, read back from JSON."""
    head = head_of(task)
    lengths = [len(words) for words in examples.inputs[0]] if task.kind == "tag" else None
    found = findings(head, scores, head.decide(scores, lengths), examples, **options)
    return json.loads(json.dumps(found, allow_nan=False))


CLASSES = make_task("classify", ("a", "b", "c"))
# Answers a, b, b, c for a, a, b, a; the last one sure, the second less so.
FOUR = torch.tensor([[3.0, 0, 0], [0, 1.0, 0], [0, 2.0, 0], [0, 0, 9.0]])
FOUR_ROWS = make_examples(["first", "second", "third", "fourth"], targets=["a", "a", "b", "a"])


def test_confusion_counts_by_hand() -> None:
    found = told(CLASSES, FOUR, FOUR_ROWS)["confusion"]
    assert found == {"labels": ["a", "b", "c"], "cells": [[0, 0, 1], [0, 1, 1], [0, 2, 1], [1, 1, 1]]}


def test_a_confident_error_comes_before_a_hesitant_one() -> None:
    found = told(CLASSES, FOUR, FOUR_ROWS)["errors"]
    assert (found["measure"], found["wrong"]) == ("confidence", 2)
    worst, second = found["rows"]
    assert worst["inputs"] == {"text": "fourth"}
    assert (worst["truth"], worst["answer"], worst["file"], worst["row"]) == ("a", "c", "rows", 4)
    assert worst["score"] == pytest.approx(1 / (1 + 2 * np.exp(-9)), abs=1e-6)
    assert second["inputs"]["text"] == "second"
    assert len(told(CLASSES, FOUR, FOUR_ROWS, errors=1)["errors"]["rows"]) == 1


@pytest.mark.method("expected_calibration_error")
def test_calibration_error_is_the_weighted_gap_of_its_bins() -> None:
    draw = np.random.default_rng(0)
    confidence, right = draw.uniform(size=500), draw.uniform(size=500) < 0.5
    edges = np.linspace(0, 1, 16)
    expected = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    found = calibration_bins(confidence, right, edges)
    assert found["ece"] == pytest.approx(expected, abs=1e-12)
    assert sum(each["count"] for each in found["bins"]) == 500
    assert all(each["low"] < each["confidence"] <= each["high"] for each in found["bins"])


@pytest.mark.method("expected_calibration_error")
def test_calibration_error_of_one_bin_and_at_the_edges() -> None:
    sure = calibration_bins(np.ones(4), np.array([True, True, True, False]), np.array([0.0, 0.5, 1.0]))
    assert (sure["ece"], len(sure["bins"])) == (0.25, 1)
    edge = calibration_bins(np.array([0.0, 0.5]), np.array([False, True]), np.array([0.0, 0.5, 1.0]))
    assert [each["count"] for each in edge["bins"]] == [2]
    assert edge["ece"] == pytest.approx(0.25)


def test_temperature_undone_and_done() -> None:
    """Labels drawn from the model's own probabilities, whose scores then are made four times too sure."""
    honest = 2 * normal(4000, 3)
    drawn = torch.multinomial(honest.softmax(-1), 1, generator=generator(1))[:, 0]
    rows = make_examples(["x"] * 4000, targets=["abc"[i] for i in drawn])
    boasting = 4 * honest
    factor = temperature(boasting, drawn)
    assert factor == pytest.approx(0.25, rel=0.1)
    found = told(CLASSES, factor * boasting, rows, factor=factor)["reliability"]
    undone = told(CLASSES, boasting, rows)["reliability"]
    assert undone["before"] is None
    for binning in ("equal_width", "equal_mass"):
        assert found["before"][binning]["ece"] == pytest.approx(undone["after"][binning]["ece"], abs=1e-3)
        assert found["before"][binning]["ece"] > 0.1
        assert found["after"][binning]["ece"] < 0.03
    counts = [each["count"] for each in found["after"]["equal_mass"]["bins"]]
    assert len(counts) == 15
    assert max(counts) - min(counts) <= 1


def test_labels_of_multilabel_rows() -> None:
    task = make_task("multilabel", ("x", "y", "z"))
    scores = torch.tensor([[5.0, -5, -5], [5, 5, -5], [-5, -5, -5]])
    rows = make_examples(["one", "two", "three"], targets=[["x"], ["x", "z"], ["x"]])
    found = told(task, scores, rows)
    assert found["confusion"] is None
    assert found["errors"]["measure"] == "wrong labels"
    assert [(row["inputs"]["text"], row["score"]) for row in found["errors"]["rows"]] == [
        ("two", 2),
        ("three", 1),
    ]
    assert (found["errors"]["rows"][0]["truth"], found["errors"]["rows"][0]["answer"]) == (
        ["x", "z"],
        ["x", "y"],
    )
    assert found["reliability"]["of"] == "labels"
    width = found["reliability"]["after"]["equal_width"]
    assert [(each["count"], each["accuracy"]) for each in width["bins"]] == [
        (6, pytest.approx(2 / 6)),
        (3, pytest.approx(2 / 3)),
    ]


def test_numbers_by_their_distance() -> None:
    rows = make_examples(["near", "far", "exact"], targets=[1.0, 2.0, 3.0])
    found = told(make_task("regress"), torch.tensor([[1.5], [-2.0], [3.0]]), rows)
    assert (found["confusion"], found["reliability"]) == (None, None)
    errors = found["errors"]
    assert (errors["measure"], errors["wrong"]) == ("distance", 2)
    assert [(row["truth"], row["answer"], row["score"]) for row in errors["rows"]] == [
        (2, -2, 4),
        (1, 1.5, 0.5),
    ]


def test_levels_keep_their_order_and_their_probabilities() -> None:
    task = make_task("ordinal", (1, 2, 3))  # thresholds at 0.5 and 1.5
    rows = make_examples(["low", "high"], targets=[1, 1])
    found = told(task, torch.tensor([[-9.0], [9.0]]), rows)
    assert found["confusion"] == {"labels": ["1", "2", "3"], "cells": [[0, 0, 1], [0, 2, 1]]}
    (wrong,) = found["errors"]["rows"]
    assert (wrong["truth"], wrong["answer"]) == (1, 3)
    assert wrong["score"] == pytest.approx(1 / (1 + np.exp(-7.5)), abs=1e-6)
    (only,) = found["reliability"]["after"]["equal_width"]["bins"]
    assert (only["count"], only["accuracy"]) == (2, 0.5)


def test_tags_are_counted_word_by_word() -> None:
    task = make_task("tag", ("B-N", "I-N", "O"))
    words = [["Anna", "sat"], ["in", "Paris", "then"]]
    rows = make_examples(words, targets=[["B-N", "O"], ["O", "B-N", "O"]])
    tag = {"B-N": 0, "I-N": 1, "O": 2}
    answered = ["B-N", "O", "O", "O", "B-N"]
    scores = torch.stack([6 * torch.eye(3)[tag[each]] for each in answered])
    found = told(task, scores, rows, factor=2.0)
    assert found["confusion"]["cells"] == [[0, 0, 1], [0, 2, 1], [2, 0, 1], [2, 2, 2]]
    errors = found["errors"]
    assert (errors["measure"], errors["wrong"]) == ("wrong tags", 1)
    assert errors["rows"][0]["inputs"] == {"text": "in Paris then"}
    assert (errors["rows"][0]["truth"], errors["rows"][0]["answer"]) == (
        ["Paris/B-N", "then/O"],
        ["Paris/O", "then/B-N"],
    )
    trust = found["reliability"]
    (before,), (after,) = (trust[when]["equal_width"]["bins"] for when in ("before", "after"))
    assert (before["count"], before["accuracy"]) == (after["count"], after["accuracy"]) == (5, 0.6)
    assert before["confidence"] == pytest.approx(np.exp(3) / (np.exp(3) + 2))
    assert after["confidence"] == pytest.approx(np.exp(6) / (np.exp(6) + 2))


def test_a_path_of_a_crf_has_no_probability_of_a_word() -> None:
    task = make_task("tag", ("B-N", "I-N", "O"), crf=True)
    found = told(task, torch.zeros(1, 3), make_examples([["word"]], targets=[["O"]]))
    assert found["reliability"] is None
    assert found["confusion"]["cells"] == [[2, 0, 1]]


def test_the_search_that_went_furthest_astray() -> None:
    """Documents on the axes; the second query points at a wrong one. Of its own two, the nearer is told."""
    queries = ["to x", "to y", "to y", "to z"]
    documents = ["x", "y", "y again", "z"]
    axes = torch.eye(4)
    scores = torch.stack(
        [torch.stack([axes[0], *[0.9 * axes[3] + 0.1 * axes[1] + 0.3 * axes[2]] * 2, axes[3]]), axes]
    )
    found = told(make_task("embed"), scores, make_examples(queries, documents))
    assert (found["confusion"], found["reliability"]) == (None, None)
    assert (found["errors"]["measure"], found["errors"]["wrong"]) == ("rank", 1)
    (wrong,) = found["errors"]["rows"]
    assert wrong == {
        "inputs": {"text": "to y"},
        "truth": "y again",
        "answer": "z",
        "score": 2.0,
        "file": "rows",
        "row": 2,
    }


def test_pairs_tell_both_texts_and_long_texts_are_cut() -> None:
    task = make_task("pair", ("no", "yes"))
    rows = make_examples(["a" * 5000], ["short"], targets=["yes"])
    (wrong,) = told(task, torch.tensor([[2.0, 0.0]]), rows)["errors"]["rows"]
    assert wrong["inputs"]["other"] == "short"
    assert wrong["inputs"]["text"].startswith("aaa")
    assert len(wrong["inputs"]["text"]) == 600


def test_the_parts_are_those_of_their_functions() -> None:
    head = head_of(CLASSES)
    made = head.decide(FOUR)
    assert findings(head, FOUR, made, FOUR_ROWS, factor=0.5) == {
        "confusion": confusion(head, made, FOUR_ROWS),
        "reliability": reliability(head, FOUR, made, FOUR_ROWS, 0.5),
        "errors": worst_errors(head, made, FOUR_ROWS),
    }
