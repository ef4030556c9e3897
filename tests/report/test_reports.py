"""Scores, what was understood, cards and the cache, as people read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from taskheads.methods import Card
from taskheads.report.cards import brief, method_card, methods_table
from taskheads.report.described import Described
from taskheads.report.kept import kept_features, size
from taskheads.report.scores import scores_table, short_reads
from taskheads.report.understood import understood
from tests.report.test_tables import printed


@dataclass
class Score:
    task: str
    kind: str
    metric: str
    value: float = 0.9123
    low: float = 0.9012
    high: float = 0.9234
    rows: int = 4500
    baseline: float = 0.0067
    others: dict[str, float] = field(default_factory=dict)


@dataclass
class Entry:
    fingerprint: str
    read: str
    rows: int
    bytes: int
    last_used: float = 0.0


SCORES = [
    Score("same_module", "pair", "accuracy"),
    Score("parameters", "ordinal", "quadratic_kappa", others={"spearman": 0.5}),
    Score("sections", "multilabel", "micro_f1", value=-0.1, low=-0.2, high=0.0),
]
READS = {"same_module": "layers 1 3 5, mean"}


def test_scores_as_a_table() -> None:
    lines = printed(scores_table(SCORES, READS), 200)
    assert lines[0].split() == [
        *("task", "kind", "metric", "score", "95", "%", "baseline", "rows", "reads", "also")
    ]
    assert lines[2].split()[:9] == [
        *("parameters", "ordinal", "quadratic_kappa", "0.912", "0.901", "to", "0.923", "0.007", "4,500")
    ]
    assert "-0.200 to 0.000" in lines[3]
    assert "layers 1 3 5, mean" in lines[1]
    assert lines[2].endswith("spearman 0.500")


@pytest.mark.parametrize("width", [120, 100, 80, 60, 40])
def test_scores_stay_a_line_a_task_however_narrow(width: int) -> None:
    lines = printed(scores_table(SCORES, READS), width)
    assert len(lines) == 1 + len(SCORES)
    assert all(len(line) <= width for line in lines)
    if width >= 80:
        assert all("0.912" in line and "0.007" in line and " to " in line for line in lines[1:3])


def test_reads_are_said_shortly() -> None:
    reads = ["output:mean", "layers.4.output:mean", "layers.0.output:mean", "embeddings:mean"]
    assert short_reads(reads) == "embeddings, layers 0 4, last; mean"
    every = [f"layers.{k}.output:mean" for k in (4, 0, 1, 2, 3, 6, 7)]
    assert short_reads(every) == "layers 0-4 6 7; mean"
    assert short_reads(["layers.2.output:mean"]) == "layer 2; mean"
    assert short_reads(["output:words"]) == "last; words"
    assert (
        short_reads(["layers.2.mlp.hidden:last", "output:mean"]) == "layers.2.mlp.hidden; last / last; mean"
    )
    assert short_reads([]) == ""


def facts(**changes: Any) -> dict[str, Any]:
    return {
        "name": "moods",
        "kind": "classify",
        "inputs": ["text"],
        "label": "mood",
        "metric": "accuracy",
        "options": {},
        "rows": {"train": 1500, "dev": 30, "test": 0},
        "labels": 3,
        "most_frequent": [["glad", 1000], ["so sad that it takes more than a few words", 400], ["x", 100]],
        "range": None,
        "characters": {"text": {"p50": 40, "p95": 90, "p100": 1234}},
        "words": {"text": {"p50": 7, "p95": 15, "p100": 200}},
        "reasons": ["first reason", "second reason"],
    } | changes


def test_what_was_understood() -> None:
    assert printed(understood([facts()], "minilm", 0), 120) == [
        "1 task on the backbone minilm, seed 0",
        "",
        "moods  classify, judged by accuracy",
        "  reads     text: median 7 words, 95 % up to 15, longest 200 (1,234 characters)",
        "  answers   mood: 3 labels, glad (1,000), so sad that it takes more tha… (400), x (100)",
        "  rows      train 1,500, dev 30, test 0",
        "  why       first reason",
        "            second reason",
    ]


def test_numbers_and_options_and_no_label() -> None:
    numbers = facts(labels=0, most_frequent=[], range=[0, 2.5], options={"crf": True})
    lines = printed(understood([numbers, facts(label=None)], "minilm", 0), 120)
    assert "  answers   mood: numbers from 0 to 2.5" in lines
    assert "  options   crf: True" in lines
    assert sum("answers" in line for line in lines) == 1
    assert lines[0].startswith("2 tasks")


def test_methods_and_their_cards() -> None:
    card = Card(
        "soft_voting", "heads", "Average what several heads answer.", "arXiv:0000.00001", ("tag",), "a:B"
    )
    assert printed(methods_table([card]), 100) == [
        "method       family  what it does                       paper             for",
        "soft_voting  heads   Average what several heads answer  arXiv:0000.00001  tag",
    ]
    assert printed(methods_table([card] * 2), 36)[1].startswith("soft_voting  Average what")
    told = Described("Average.", ("Often.",), ("Never.",), {"rank": "8"}, "", "one\ntwo")
    shown = printed(method_card(card, told), 100)
    assert shown[0] == "soft_voting  heads"
    assert "  evidence  no test is recorded" in shown
    assert "  set       rank=8" in shown
    assert shown[shown.index("  example   one") + 1] == "            two"


def test_a_summary_in_brief_ends_where_details_begin() -> None:
    assert brief("Soft voting: a * b. Another") == "Soft voting: a * b"
    assert brief("Average what several heads of one task answer: a * b") == (
        "Average what several heads of one task answer"
    )
    assert brief("At [n, 0.5] rows; then") == "At [n, 0.5] rows"
    assert brief("All of it") == "All of it"


def test_the_cache() -> None:
    entries = [Entry("0123456789abcdef", "output:mean", 15000, 23_000_000), Entry("f", "b:mean", 1, 900)]
    lines = printed(kept_features(entries, Path("there")), 100)
    assert lines[1].startswith("output:mean  15,000  23.0 MB  ")
    assert "0123456789ab" in lines[1]
    assert lines[-1] == "23.0 MB in there"
    assert printed(kept_features([], Path("there")), 100) == ["nothing is kept in there"]


def test_sizes() -> None:
    assert [size(n) for n in (0, 999, 1000, 1_500_000, 10**15)] == [
        *("0 B", "999 B", "1.0 kB", "1.5 MB", "1000.0 TB")
    ]
