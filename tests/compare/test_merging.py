"""Merges in a comparison: what they are made of is tuned once, and shared."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import taskheads as th
from taskheads.compare import bench
from taskheads.compare.merging import merged
from taskheads.compare.ways import apart, way_of
from taskheads.model.model import Model
from taskheads.training.solving import solve
from tests.compare.small import AMPLE, NAMES, QUICK, compared, suite
from tests.small_models import tiny_backbone


def test_a_merge_of_two_models_is_their_mean_with_their_heads(tmp_path: Path) -> None:
    backbone, data = tiny_backbone(), suite()
    data.training = QUICK
    th.fit(apart(NAMES).applied(data), backbone=backbone, out=tmp_path / "models")
    way, solved = way_of("linear"), solve(backbone, data)
    assert way is not None
    for each in solved.fitted.values():
        each.dev = -1.0  # that no task keeps its frozen head
    model = merged(way, data, backbone, solved, tmp_path / "models")
    own = Model.load(tmp_path / "models")
    weights = [dict(own.backbone_of(task).model.named_parameters()) for task in NAMES]
    for name, each in model.backbone.model.named_parameters():
        mean = (weights[0][name] + weights[1][name]) / 2
        torch.testing.assert_close(each, mean, atol=1e-6, rtol=0)
    assert not model.branches
    assert {name: card["kept"] for name, card in model.card["tasks"].items()} == dict.fromkeys(
        NAMES, "shared"
    )


def test_a_task_that_a_merge_does_not_help_keeps_its_head(tmp_path: Path) -> None:
    backbone, data = tiny_backbone(), suite()
    data.training = QUICK
    th.fit(apart(NAMES).applied(data), backbone=backbone, out=tmp_path / "models")
    way, solved = way_of("ties"), solve(backbone, data)
    assert way is not None
    for each in solved.fitted.values():
        each.dev = 2.0
    model = merged(way, data, backbone, solved, tmp_path / "models")
    assert model.heads == {name: each.head for name, each in solved.fitted.items()}
    assert model.backbone is backbone


def test_models_are_tuned_once_for_all_merges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned: Counter[int] = Counter()

    def fit(of: Any, **more: Any) -> Model:
        tuned[len(of.training.get("groups", ()))] += 1
        return th.fit(of, **more)

    monkeypatch.setattr(bench, "fit", fit)
    monkeypatch.setattr("taskheads.compare.race.parts_of", lambda _: [1.0])
    found = compared(tmp_path / "out", ["linear", "ties", "task_arithmetic"])
    assert tuned == {0: 1, 2: 1}, "the frozen heads, and a model for each task"
    names = {way["name"]: way for way in found["ways"]}
    assert set(names) == {"frozen", "full groups=apart", "linear", "ties", "task_arithmetic"}
    assert names["linear"]["seconds"] > names["full groups=apart"]["seconds"]
    whole = sum(each.numel() for each in tiny_backbone().model.parameters())
    assert names["full groups=apart"]["parameters"] == 2 * whole
    assert {names[name]["parameters"] for name in ("linear", "ties")} <= {0, whole}
    best = next(way for way in found["ways"] if way["key"] == found["recommended"])
    assert best["method"] in ("frozen", "full"), "what `fit` takes as it is"


def test_without_models_there_is_no_merge(tmp_path: Path) -> None:
    diverging = QUICK | {"steps": 6, "lr": 1e30, "clip": 1e30}
    found = compared(tmp_path / "out", ["linear"], training=diverging, budget=AMPLE)
    assert set(found["left_out"]) == {"full groups=apart", "linear"}
    assert "no models to merge: the loss of task" in found["left_out"]["linear"]
