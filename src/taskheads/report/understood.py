"""What was understood of a suite and why: the report of `taskheads check`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from taskheads.report.tables import named_lines

_LONGEST_LABEL = 30


def understood(tasks: Sequence[Mapping[str, Any]], backbone: str, seed: int) -> Group:
    """A block for each task, from the facts that `taskheads.tasks.describe` found."""
    number = "1 task" if len(tasks) == 1 else f"{len(tasks)} tasks"
    parts: list[Text | Table] = [Text(f"{number} on the backbone {backbone}, seed {seed}")]
    for facts in tasks:
        parts += [Text(), _title(facts), named_lines(_lines(facts))]
    return Group(*parts)


def _title(facts: Mapping[str, Any]) -> Text:
    return Text.assemble((facts["name"], "bold"), f"  {facts['kind']}, judged by {facts['metric']}")


def _lines(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for i, column in enumerate(facts["inputs"]):
        yield "" if i else "reads", f"{column}: {_lengths(facts, column)}"
    if facts["label"] is not None:
        yield "answers", f"{facts['label']}: {_answers(facts)}"
    yield "rows", ", ".join(f"{split} {count:,}" for split, count in facts["rows"].items())
    if facts["options"]:
        yield "options", ", ".join(f"{name}: {value}" for name, value in facts["options"].items())
    for i, reason in enumerate(facts["reasons"]):
        yield "" if i else "why", reason


def _lengths(facts: Mapping[str, Any], column: str) -> str:
    words, characters = facts["words"][column], facts["characters"][column]
    return (
        f"median {words['p50']:,} words, 95 % up to {words['p95']:,}, "
        f"longest {words['p100']:,} ({characters['p100']:,} characters)"
    )


def _answers(facts: Mapping[str, Any]) -> str:
    if facts["labels"]:
        frequent = ", ".join(f"{_short(label)} ({count:,})" for label, count in facts["most_frequent"])
        more = facts["labels"] > len(facts["most_frequent"])
        return f"{facts['labels']:,} labels, {'most often ' if more else ''}{frequent}"
    if facts["range"]:
        low, high = facts["range"]
        return f"numbers from {low:g} to {high:g}"
    return ""


def _short(label: object) -> str:
    text = str(label)
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
