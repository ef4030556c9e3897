"""The page understands what `taskheads.model.findings` tells of every kind of head."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from taskheads.heads import EmbedHead, TagHead
from taskheads.model.findings import findings
from taskheads.report.page import page
from taskheads.tasks.task import Examples
from tests.heads.planted import make_examples, normal
from tests.report.test_page import Parsed
from tests.small_models import KINDS, tiny_backbone, tiny_head

ROWS = 12


def labelled(name: str) -> Examples:
    """Rows of a task of `tests.small_models`, their labels in turn."""
    kind, inputs, labels = KINDS[name]
    texts = [[f"{column} {i}" for i in range(ROWS)] for column in inputs]
    if kind == "tag":
        words = [each.split() for each in texts[0]]
        return make_examples(words, targets=[[labels[(i + k) % 3] for k in range(2)] for i in range(ROWS)])
    if kind == "embed":
        return make_examples(*texts)
    if kind == "multilabel":
        return make_examples(*texts, targets=[[labels[i % 2]] for i in range(ROWS)])
    targets: list[Any] = [labels[i % len(labels)] if labels else float(i) for i in range(ROWS)]
    return make_examples(*texts, targets=targets)


@pytest.mark.parametrize("name", KINDS)
def test_what_a_head_finds_is_shown(name: str) -> None:
    head, examples = tiny_head(name, tiny_backbone()), labelled(name)
    lengths = [len(words) for words in examples.inputs[0]] if isinstance(head, TagHead) else None
    features = normal(sum(lengths or [ROWS]), head.features)
    if isinstance(head, EmbedHead):
        features = torch.stack([features, normal(ROWS, head.features, seed=1)])
    with torch.inference_mode():
        scores = head(features)
        found = findings(head, scores, head.decide(scores, lengths), examples, factor=0.5)
    report = {"tasks": {name: {"kind": head.task.kind, "findings": json.loads(json.dumps(found))}}}
    shown = Parsed(page(report))
    assert shown.open == []
    assert ("Confusion matrix" in shown.text) == (found["confusion"] is not None)
    assert ("Reliability of" in shown.text) == (found["reliability"] is not None)
    assert found["errors"]["rows"]
    for row in found["errors"]["rows"]:
        assert all(text in shown.text for text in row["inputs"].values())
    errors = shown.tables[-1]
    assert [cell.strip() for cell in errors[0]][: len(row["inputs"])] == list(row["inputs"])
    assert len(errors) == 1 + len(found["errors"]["rows"])
