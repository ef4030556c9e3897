"""Every method of the catalogue that is a way of fitting goes through a comparison."""

from __future__ import annotations

from dataclasses import make_dataclass, replace
from pathlib import Path

import pytest

from taskheads.backbone.backbone import Backbone
from taskheads.compare.ways import unfit, way_of, why_no_way
from taskheads.edits.edit import edit_methods
from taskheads.merging.learned.recipes import RECIPES
from taskheads.methods import catalogue
from taskheads.tasks.suite import Suite
from tests.compare.small import compared, suite
from tests.small_models import tiny_backbone


def without_test_rows(of: Suite) -> Suite:
    tasks = {
        name: replace(data, splits=data.splits | {"test": data.splits["test"].at([])})
        for name, data in of.tasks.items()
    }
    return replace(of, tasks=tasks)


def applicable(of: Suite, backbone: Backbone) -> list[str]:
    """The methods of the catalogue that are ways of fitting this suite on this backbone."""
    ways = [way for card in catalogue() if (way := way_of(card.name)) is not None]
    return [way.method for way in ways if unfit(way, of, backbone) is None]


def test_every_card_that_applies_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchjd")
    for name, kind in RECIPES.items():  # one step, for a test's sake
        step = make_dataclass(kind.__name__, [("steps", int, 1)], bases=(kind,), frozen=True)
        monkeypatch.setitem(RECIPES, name, step)
    monkeypatch.setattr("taskheads.compare.race.parts_of", lambda _: [1.0])
    small, backbone = without_test_rows(suite(rows=12)), tiny_backbone()
    names = applicable(small, backbone)
    assert {"lora", "pcgrad", "uncertainty", "dynamic_sampling", "ties", "fisher", "self_positioning"} <= set(
        names
    )
    for name in set(edit_methods()) - set(names):
        way = way_of(name)
        assert way is not None
        assert unfit(way, small, backbone), "an edit is a way, unless it says why not"
    found = compared(
        tmp_path / "out",
        names,
        suite=small,
        backbone=backbone,
        training={"tokens": 32, "steps": 1, "evaluations": 1, "dev_rows": 4},
    )
    same = {name for name, why in found["left_out"].items() if why == "trains the very same as equal"}
    assert set(found["left_out"]) - same == {"adamerging", "concrete_subspace_merging", "layer_swapping"}
    assert {way["method"] for way in found["ways"]} | set(found["left_out"]) == {"frozen", "full", *names}
    assert all(set(way["dev"]) == {"topic", "size"} and way["part"] == 1.0 for way in found["ways"])


def test_what_is_no_way_of_fitting_is_none() -> None:
    heads = [card.name for card in catalogue() if card.family == "heads"]
    assert [name for name in [*heads, "gradient_cosine", "linear_cka"] if way_of(name) is not None] == []


def test_every_method_is_a_way_or_says_why_not() -> None:
    for card in catalogue():
        if way_of(card.name) is None:
            assert not why_no_way(card).startswith("see "), card.name
