"""The documentation of methods: made from the cards, up to date, and its examples run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import taskheads.report.measured as report_measured
from taskheads.errors import ConfigError
from taskheads.methods import Card, catalogue, find
from taskheads.report.described import described
from taskheads.report.families import FAMILY
from taskheads.report.measured import keep, of_benchmark
from taskheads.report.method_pages import pages_of, write_pages
from tests.compare.small import written

DOCS = Path(__file__).parents[2] / "docs" / "methods"
CARDS = catalogue()


def test_the_pages_say_what_the_cards_say(tmp_path: Path) -> None:
    (tmp_path / "gone.md").write_text("a family that is no more")
    write_pages(tmp_path, CARDS)
    made = {path.name: path.read_text() for path in tmp_path.glob("*.md")}
    assert made == {path.name: path.read_text() for path in DOCS.glob("*.md")}, (
        "run: taskheads methods --write-docs docs/methods"
    )
    for card in CARDS:
        assert f"## {card.name}\n" in made[f"{card.family}.md"]
    assert not list(tmp_path.glob("*.partial"))


def record(path: Path, limit: int | None = None) -> Path:
    """Figures as `benchmarks/edit_methods.py` writes them."""
    lora = {
        "score": {"topic": 0.75, "names": 0.5},
        "frozen": {"topic": 0.625, "names": 0.25},
        "kept": ["topic"],
        "parameters": 1234,
        "bytes": 5000,
        "processor_seconds": 67.8,
        "peak_bytes": 900_000_000,
    }
    facts = {
        "cpu": "A processor",
        "cores": 4,
        "threads": 2,
        "versions": {"torch": "2.0"},
        "when": "2026-01-02",
    }
    methods = {"ia3": lora | {"score": {"topic": 0.5, "names": 0.5}}, "lora": lora}
    path.write_text(json.dumps({"facts": facts, "limit": limit, "steps": 60, "methods": methods}))
    return path


def test_what_was_measured_stands_on_the_pages(tmp_path: Path) -> None:
    measured = of_benchmark(record(tmp_path / "figures.json"))
    pages = pages_of(CARDS, measured)
    lines = pages["edits.md"].splitlines()
    at = lines.index("| frozen | 62.5 | 25.0 | 0 |  |  |  |")
    assert lines[at + 1] == "| [lora](#lora) | 75.0 | 50.0 | 1,234 | 5.0 kB | 68 | 900.0 MB |", (
        "the best is first"
    )
    assert lines[at + 2].startswith("| [ia3](#ia3) | 50.0 |")
    assert "(60 steps a stage) on A processor, 2 of 4 cores, torch 2.0:" in lines[at - 4]
    assert "2026" not in lines[at - 4]
    (told,) = [
        line for line in lines if line.startswith("- measured: ") and "topic 75.0 (frozen 62.5)" in line
    ]
    assert told.endswith("1,234 parameters and 5.0 kB a task, 68 processor seconds, 900.0 MB of memory")
    assert "easured" not in pages["sharing.md"]


def test_what_is_kept_is_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_measured, "FILE", tmp_path / "measured.json")
    report_measured.measured_last.cache_clear()
    assert report_measured.measured_last() is None
    measured = of_benchmark(record(tmp_path / "figures.json", limit=200))
    keep(measured, tmp_path / "measured.json")
    assert report_measured.measured_last() == measured
    assert "200 rows a split" in measured.how
    monkeypatch.undo()
    report_measured.measured_last.cache_clear()


def test_files_of_several_runs_are_one_and_have_to_be_alike(tmp_path: Path) -> None:
    first, second = record(tmp_path / "a.json"), record(tmp_path / "b.json")
    second.write_text(second.read_text().replace('"lora"', '"vera"').replace('"ia3"', '"reft"'))
    assert set(of_benchmark(first, second).methods) == {"lora", "ia3", "vera", "reft"}
    with pytest.raises(ConfigError, match=r"c.json was measured otherwise than .*a.json"):
        of_benchmark(first, record(tmp_path / "c.json", limit=5))


@pytest.mark.parametrize("text", ["{}", "[1]", "figures", '{"facts": {}, "methods": {}}'])
def test_figures_of_something_else_are_not_taken(text: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ConfigError, match=r"other.json is not what benchmarks/edit_methods.py --out writes"):
        of_benchmark(tmp_path / "other.json")


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
