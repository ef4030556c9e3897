"""The table of a comparison: what each way scores, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.text import Text

from taskheads.report.kept import size
from taskheads.report.page.numbers import duration, signed
from taskheads.report.scores import number
from taskheads.report.tables import Column, FittedTable

Way = Mapping[str, Any]


def compared_table(found: Mapping[str, Any]) -> Group:
    """A line for each way of `taskheads.compare.front`'s JSON: those judged on test, then those that ended
    on fewer rows, with their dev scores there; below, why others are missing."""
    ways = sorted(found["ways"], key=lambda way: (-way["part"], -_mean(way)))
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
    why = [Text(f"{name}: {reason}") for name, reason in found["left_out"].items()]
    return Group(table, *([Text("\nLeft out:"), *why] if why else []))


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
