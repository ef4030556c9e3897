"""The documentation of methods: made from the cards, up to date, and its examples run."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskheads.methods import Card, catalogue, find
from taskheads.report.described import described
from taskheads.report.families import FAMILY
from taskheads.report.method_pages import pages_of, write_pages
from tests.compare.small import written

DOCS = Path(__file__).parents[2] / "docs" / "methods"
CARDS = catalogue()


def test_the_pages_say_what_the_cards_say(tmp_path: Path) -> None:
    (tmp_path / "gone.md").write_text("a family that is no more")
    if (DOCS / "measured.json").exists():
        (tmp_path / "measured.json").write_text((DOCS / "measured.json").read_text())
    write_pages(tmp_path, CARDS)
    made = {path.name: path.read_text() for path in tmp_path.glob("*.md")}
    assert made == {path.name: path.read_text() for path in DOCS.glob("*.md")}, (
        "run: taskheads methods --write-docs docs/methods"
    )
    for card in CARDS:
        assert f"## {card.name}\n" in made[f"{card.family}.md"]
    assert not list(tmp_path.glob("*.partial"))


def test_what_was_measured_stands_on_the_page_of_its_family() -> None:
    way = {"method": "lora", "name": "lora", "quality": 0.5, "part": 1 / 3, "test": None}
    costs = {"parameters": 1234, "seconds": 5.6}
    whole = {**way, "method": "full", "name": "full", "test": {"mean": {"value": 0.75}}}
    told = {
        "tasks": {"topic": {"metric": "accuracy"}},
        "hardware": "a machine",
        "created": "2026-01-02T03:04",
        "ways": [way | costs, whole | costs],
    }
    pages = pages_of(CARDS, told)
    assert "| lora | 0.500 | dev, 33% of the rows | 1,234 | 6 |" in pages["edits.md"]
    assert "| full | 0.750 | test | 1,234 | 6 |" in pages["edits.md"]
    assert "topic (accuracy), a machine, 2026-01-02" in pages["edits.md"]
    assert "Measured" not in pages["sharing.md"]


def test_the_mechanism_is_three_sentences_and_names_do_not_end_them() -> None:
    told = described(find("lora"))
    assert told.mechanism.endswith("Hu et al. 2022, section 4.1. Trained: rank · (in + out) numbers a map.")
    assert told.parameters == {"targets": "'attention'", "rank": "8", "alpha": "16.0", "layers": "None"}
    assert described(find("lora_plus")).parameters["rank"] == "8", "a parent's options are its own"
    assert told.use[0] == FAMILY["edits"].use
    assert any("folds" in each for each in told.use)
    assert any("2 stages" in each for each in described(find("lofit")).avoid)
    assert described(find("ptec")).use[1] == "For tasks of the kind multilabel or classify."


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_an_example_that_is_an_import_runs(card: Card) -> None:
    example = described(card).example
    if "th.fit" not in example:
        exec(example, {})


@pytest.mark.parametrize("method", ["ia3", "uncertainty", "dynamic_sampling"])
def test_an_example_that_is_a_fit_runs(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path)
    monkeypatch.chdir(tmp_path)
    named: dict = {}
    exec(described(find(method)).example, named)
    assert set(named["model"].tasks) == {"topic", "size"}
