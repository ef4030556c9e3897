"""The table and the picture of a comparison: what has a line of its own, and what is said below."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from rich.console import Console

from taskheads.report.compared import compared_table
from taskheads.report.page.tradeoff import tradeoff


def way(name: str, kept: str, mean: float, part: float = 1.0) -> dict[str, Any]:
    interval = {"value": mean, "low": mean - 0.1, "high": mean + 0.1}
    test = {"tasks": {"topic": interval}, "mean": interval, "beside": interval, "latency_ms": 5.0}
    costs = {
        "parameters": 0 if kept == "frozen" else 1000,
        "seconds": 2.0,
        "peak_bytes": 10**9,
        "bytes": 10**4,
    }
    told = {"key": name, "name": name, "method": name, "kept": {"topic": kept}, "part": part, "quality": mean}
    return {**told, **costs, "dev": {"topic": mean}, "test": test if part == 1.0 else None}


FOUND = {
    "tasks": {"topic": {}},
    "recommended": "lora",
    "front": ["frozen", "lora"],
    "ways": [
        *(way("lora", "lora", 0.9), way("frozen", "frozen", 0.7), way("ia3", "frozen", 0.7)),
        way("vera", "vera", 0.6, 1 / 3),
    ],
    "left_out": {"reft": "no time", "dora": "no time", "ptec": "another reason"},
}


def test_ways_that_changed_nothing_and_equal_reasons_share_a_line() -> None:
    console = Console(width=160, record=True)
    with console.capture() as shown:
        console.print(compared_table(FOUND))
    lines = [line.rstrip() for line in shown.get().splitlines()]
    assert [line.split()[0] for line in lines[1:4]] == ["lora", "frozen", "vera"]
    assert "dev, 33% of rows" in lines[3]
    assert lines[4:] == [
        *("", "Better than the frozen head for no task on dev: ia3"),
        *("", "Left out:", "reft, dora: no time", "ptec: another reason"),
    ]


def test_the_picture_has_a_point_for_each_line_of_the_table() -> None:
    picture = ElementTree.fromstring(tradeoff(FOUND))
    points = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert [point.partition(":")[0] for point in points if point] == ["lora", "frozen", "vera"] * 2
