"""The table of a comparison: what each way scores, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group
from rich.text import Text

from taskheads.compare.front import idle
from taskheads.report.kept import size
from taskheads.report.page.numbers import duration, signed
from taskheads.report.scores import number
from taskheads.report.tables import Column, FittedTable

Way = Mapping[str, Any]


def compared_table(found: Mapping[str, Any]) -> Group:
    """A line for each way of `comparison.json`: those judged on test, then those that ended on fewer rows,
    with their dev scores there; below, those that left every task its frozen head, whose line is that of
    "frozen", and why others are missing."""
    ways = sorted(
        (way for way in found["ways"] if not idle(way)), key=lambda way: (-way["part"], -_mean(way))
    )
    best, on_front = found["recommended"], set(found["front"])
    marks = {way["key"]: " *" if way["key"] == best else "" for way in ways}
    table = FittedTable(
        [
            Column("way", [way["name"] + marks[way["key"]] for way in ways]),
            Column("mean", [number(_mean(way)) for way in ways], right=True),
            Column("95 %", [_ends(way, "mean") for way in ways], spare=4),
            Column("beside *", [_ends(way, "beside", signed) for way in ways], spare=3),
            *(
                Column(task, [number(_score(way, task)) for way in ways], right=True, spare=2)
                for task in found["tasks"]
            ),
            Column("judged on", [_judged(way) for way in ways], spare=5),
            Column("parameters", [f"{way['parameters']:,}" for way in ways], right=True),
            Column("seconds", [duration(way["seconds"]) for way in ways], right=True),
            Column("peak", [size(way["peak_bytes"]) for way in ways], right=True, spare=7),
            Column("a task", [size(way["bytes"]) for way in ways], right=True, spare=6),
            Column("latency", [_latency(way) for way in ways], right=True, spare=5),
            Column("tuned", [_tuned(way) for way in ways], spare=8),
            Column("front", ["yes" if way["key"] in on_front else "" for way in ways], spare=1),
        ]
    )
    same = [way["name"] for way in found["ways"] if idle(way)]
    kept = [Text(f"\nBetter than the frozen head for no task on dev: {', '.join(same)}")] if same else []
    return Group(table, *kept, *_left_out(found["left_out"]))


def _left_out(reasons: Mapping[str, str]) -> Iterator[Text]:
    """Reasons, and the names of all that they are true of."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    if names:
        yield Text("\nLeft out:")
    for reason, mine in names.items():
        yield Text(f"{', '.join(mine)}: {reason}")


def _mean(way: Way) -> float:
    return way["test"]["mean"]["value"] if way["test"] else way["quality"]


def _score(way: Way, task: str) -> float | None:
    return way["test"]["tasks"].get(task, {}).get("value") if way["test"] else way["dev"][task]


def _ends(way: Way, what: str, shown: Any = number) -> str:
    if not way["test"]:
        return ""
    return f"{shown(way['test'][what]['low'])} to {shown(way['test'][what]['high'])}"


def _judged(way: Way) -> str:
    return "test" if way["test"] else "dev" if way["part"] == 1 else f"dev, {way['part']:.0%} of rows"


def _latency(way: Way) -> str:
    return f"{way['test']['latency_ms']:.1f} ms" if way["test"] else ""


def _tuned(way: Way) -> str:
    """For how many tasks tuning was better on dev than the frozen head."""
    kept = way["kept"].values()
    return f"{sum(each != 'frozen' for each in kept)} of {len(kept)}"
